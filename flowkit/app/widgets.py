"""Controls and results as gradio components."""

from __future__ import annotations

import itertools
import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio

from flowkit.app.controls import Choice, Control, Number, Slider, TextLine, Upload
from flowkit.app.panel import Made, Show
from flowkit.errors import UserError

#: Its constructors take more than their stubs can tell of arguments in a dict.
gr: Any = gradio
#: Results of so many runs of a tab are kept.
_KEPT = 20
_run_numbers = itertools.count(1)


def draw_control(control: Control, name: str, folder: Path, *, visible: bool = True) -> Any:
    """The component of a control, in the surrounding layout; its examples are written into ``folder``."""
    shared: dict[str, Any] = {"label": control.label, "elem_id": name, "visible": visible, "interactive": True}
    noted = shared | {"info": control.info or None}
    if isinstance(control, Slider):
        return gr.Slider(control.low, control.high, control.value, step=control.step, **noted)
    if isinstance(control, Choice):
        few = len(control.options) <= 3
        made = gr.Radio if few else gr.Dropdown
        return made(list(control.options), value=control.value, **noted)
    if isinstance(control, TextLine):
        return _text(control, noted)
    if isinstance(control, Number):
        return _number(control, noted)
    if isinstance(control, Upload):
        return _upload(control, shared, folder)
    raise TypeError(f"no component shows a {type(control).__name__}")


def _text(control: TextLine, noted: dict[str, Any]) -> Any:
    # In a text of several lines Shift and Return run, in one of one line Return does.
    box = gr.Textbox(control.value, lines=control.lines, **noted)
    if control.examples:
        with gr.Row():
            for example in control.examples:
                short = example if len(example) <= 30 else example[:28].rstrip() + " ..."
                button = gr.Button(short, size="sm", min_width=100)
                button.click(_constant(example), None, box, show_progress="hidden", api_visibility="private")
    return box


def _number(control: Number, noted: dict[str, Any]) -> Any:
    if not control.dice:
        return gr.Number(control.value, precision=0, **noted)
    with gr.Row(equal_height=True):
        box = gr.Number(control.value, precision=0, scale=3, min_width=120, **noted)
        button = gr.Button("Another", size="sm", scale=1, min_width=80)
    button.click(_draw, None, box, show_progress="hidden", api_visibility="private")
    return box


def _draw() -> int:
    return secrets.randbelow(1_000_000)


def _upload(control: Upload, shared: dict[str, Any], folder: Path) -> Any:
    paths = {name: str(make(folder)) for name, make in control.examples.items()}
    first = next(iter(paths.values()), None)
    if control.film:
        box: Any = gr.Video(first, sources=["upload"], height=220, include_audio=True, **shared)
    else:
        box = gr.File(first, file_types=list(control.suffixes) or None, height=90, **shared)
    if control.info:
        gr.HTML(f'<div class="fk-small" style="padding: 0 1em .5em">{control.info}</div>', padding=False)
    if paths:
        with gr.Row():
            for name, path in paths.items():
                button = gr.Button(name, size="sm", min_width=100)
                button.click(_constant(path), None, box, show_progress="hidden", api_visibility="private")
    return box


def _constant(value: Any) -> Callable[[], Any]:
    return lambda: value


def value_of(control: Control, value: Any) -> Any:
    """The value that a panel gets.

    Raises:
        UserError: a number is missing or out of its range.
    """
    if isinstance(control, Number | Slider):
        if value is None:
            raise UserError(f"{control.label}: give a number")
        if isinstance(control, Number):
            return int(value)
        if not control.low <= value <= control.high:
            raise UserError(f"{control.label} is {value:g}: from {control.low:g} to {control.high:g}")
        return int(value) if control.whole else float(value)
    return value


class Places:
    """Where results are shown, in the order of :attr:`components`."""

    def __init__(self, shows: Sequence[Show], name: str) -> None:
        self.shows = shows
        self.components: list[Any] = []
        self._kinds: list[tuple[str, str]] = []
        for show in shows:
            hidden = show.kind == "any"
            for kind in ("picture", "film", "sound", "file") if hidden else (show.kind,):
                self._kinds.append((show.name, kind if not hidden else f"any {kind}"))
                elem = f"{name}-{show.name}" + (f"-{kind}" if hidden else "")
                self.components.append(_place(kind, show.label, elem, many=hidden))

    def empty(self) -> list[Any]:
        """Nothing to see."""
        return [gr.update(value=None, visible=not kind.startswith("any")) for _, kind in self._kinds]

    def filled(self, made: Made, folder: Path) -> list[Any]:
        """The results, written below ``folder``."""
        target = folder / f"run-{next(_run_numbers)}"
        target.mkdir()
        for old in sorted(folder.glob("run-*"), key=lambda p: int(p.name[4:]))[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        paths = {name: str(shown.save(target / name.replace("/", "-"))) for name, shown in made.shown.items()}
        values = []
        for name, kind in self._kinds:
            if kind.startswith("any"):
                found = [path for path in paths.values() if kind in ("any file", f"any {_kind(path)}")]
                value = found if kind in ("any picture", "any file") else next(iter(found), None)
                values.append(gr.update(value=value or None, visible=bool(found)))
            else:
                values.append(gr.update(value=paths.get(name)))
        return values


def _kind(path: str) -> str:
    return {".png": "picture", ".mp4": "film", ".wav": "sound", ".flac": "sound"}.get(Path(path).suffix, "file")


def _place(kind: str, label: str, name: str, *, many: bool) -> Any:
    shared: dict[str, Any] = {"label": label, "elem_id": name, "interactive": False, "visible": not many}
    if not many:  # gradio's own label would cover a corner of the picture
        gr.HTML(f'<div class="fk-label">{label}</div>', padding=False)
        shared["show_label"] = False
    if kind == "sound":
        return gr.Audio(type="filepath", buttons=["download"], **shared)
    if kind == "film":
        return gr.Video(autoplay=True, loop=True, buttons=["download"], **shared)
    if kind == "file":
        return gr.File(file_count="multiple", **(shared | {"label": f"{label}: files"}))
    if many:
        return gr.Gallery(columns=2, object_fit="contain", height="auto", **shared)
    return gr.Image(type="filepath", buttons=["download", "fullscreen"], **shared)
