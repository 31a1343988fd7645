"""From names of models to a page that is served until it is interrupted."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowkit.artifacts import describe_run, from_pretrained, pretrained_names
from flowkit.errors import UserError

if TYPE_CHECKING:
    from flowkit.app.page import Tab

#: Ports that are tried where none is given.
FIRST_PORT, PORTS = 7860, 100


@dataclass(frozen=True)
class Served:
    """A page that is up.

    Attributes:
        url: where.
        shared: its public address, or "".
        close: take it down.
    """

    url: str
    shared: str
    close: Callable[[], None]


def import_gradio() -> Any:
    """gradio, told beforehand that it reports nothing to anybody.

    Raises:
        UserError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio
    except ImportError as error:
        raise UserError(f"the page needs gradio ({error}): pip install 'flowkit-fm[app]'") from error
    return gradio


def tabs_of(runs: Sequence[str], *, device: str, tell: Callable[[str], None] = lambda _: None) -> list[Tab]:
    """Load the models; without ``runs`` those that ship and have a panel of their own.

    A shipped model that nobody named and that cannot be loaded here (an extra is not installed) gets a tab that says
    what is missing.

    Raises:
        UserError: a named one cannot be loaded.
    """
    from flowkit.app.generic import panel_names, panel_of
    from flowkit.app.page import Tab, slug

    shown = set(panel_names())
    names = list(runs) or [name for name in pretrained_names() if describe_run(name).get("task") in shown]
    tabs: list[Tab] = []
    for name in names:
        tell(f"loading {name}")
        try:
            tabs.append(Tab(name, panel_of(from_pretrained(name, device=device))))
        except UserError as error:
            if runs:
                raise
            tabs.append(Tab(name, None, str(error)))
    if not tabs:
        raise UserError("no model ships with the plugins that are installed: give a RUN")
    taken = [slug(tab.name) for tab in tabs]
    for name in taken:
        if taken.count(name) > 1:
            raise UserError(f"two of the models are called {name!r}: give each once")
    return tabs


def serve(
    tabs: Sequence[Tab], *, host: str = "127.0.0.1", port: int | None = None, share: bool = False, browser: bool = False
) -> Served:
    """Put the page up and return.

    Args:
        tabs: what :func:`tabs_of` gave.
        host: address to listen at; ``0.0.0.0`` lets other machines in.
        port: None takes the first free one from 7860 on.
        share: also ask gradio's service for a public address.
        browser: open it.

    Raises:
        UserError: the port is taken, or the host is none of this machine's.
    """
    gradio = import_gradio()
    from flowkit.app.page import page
    from flowkit.app.telling import STYLE

    chosen = _free_port(host, port)
    with ExitStack() as undo:
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="flowkit-app-")))
        undo.enter_context(_kept_in(folder / "cache"))
        blocks = page(tabs, folder / "results")
        # Fonts of the system: gradio's themes would ask Google for theirs.
        theme = gradio.themes.Soft(
            primary_hue="blue", font=["system-ui", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif"],
            font_mono=["ui-monospace", "Consolas", "monospace"],
        )  # fmt: skip
        undo.callback(blocks.close, verbose=False)
        try:
            _, url, shared = blocks.launch(
                server_name=host, server_port=chosen, share=share, inbrowser=browser, quiet=True,
                prevent_thread_lock=True, ssr_mode=False, mcp_server=False, footer_links=[], theme=theme, css=STYLE,
                allowed_paths=[str(folder)], enable_monitoring=False,
            )  # fmt: skip
        except OSError as error:
            raise UserError(f"--host {host} --port {chosen}: {error}") from error
        return Served(url, shared or "", undo.pop_all().close)


@contextmanager
def _kept_in(folder: Path) -> Iterator[None]:
    """Inside, gradio keeps its files in ``folder``."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("GRADIO_TEMP_DIR", None)
        else:
            os.environ["GRADIO_TEMP_DIR"] = before


def _free_port(host: str, port: int | None) -> int:
    """``port`` if it is free, else the first free one."""
    wanted = [port] if port is not None else range(FIRST_PORT, FIRST_PORT + PORTS)
    for number in wanted:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind((host, number))
                return int(tried.getsockname()[1])
            except (OSError, OverflowError) as error:
                reason = getattr(error, "strerror", None) or str(error)
    if port is not None or "in use" not in reason:
        where = f"--host {host}" + (f" --port {port}" if port is not None else "")
        raise UserError(f"{where}: {reason}: choose another")
    raise UserError(f"the ports {FIRST_PORT} to {FIRST_PORT + PORTS - 1} are all taken: choose one with --port")


def wait() -> None:
    """Until the process is interrupted."""
    threading.Event().wait()
