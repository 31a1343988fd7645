"""``flowkit app RUN``: a local web page that uses trained models."""

from __future__ import annotations

import argparse
import signal
import sys

from flowkit.cli import options
from flowkit.errors import UserError

EXAMPLE = """examples:
  flowkit app speech/prompts-en               # a page for one model; opens the browser
  flowkit app runs/my-voice policy/fork       # two models, a tab each
  flowkit app                                 # all models that ship
  flowkit app video/river-sprites --no-browser --port 8000

Only this machine can open the page unless --host or --share says otherwise. Control and C ends it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    parser.add_argument(
        "runs", metavar="RUN", nargs="*",
        help="run folders, pretrained names (flowkit list pretrained) or model folders; none: all that ship",
    )  # fmt: skip
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS",
        help="to listen at (default 127.0.0.1: this machine alone; 0.0.0.0 lets the whole network in)",
    )  # fmt: skip
    parser.add_argument("--port", type=int, metavar="N", help="default: the first free one from 7860 on")
    parser.add_argument(
        "--share", action="store_true",
        help="also a public address, through gradio's service: whoever knows it can use the page",
    )  # fmt: skip
    parser.add_argument("--no-browser", action="store_true", help="print the address and open nothing")
    options.add_device_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Load, serve, and wait to be interrupted."""
    if args.port is not None and not 0 <= args.port < 65536:
        raise UserError(f"--port {args.port}: from 0 (any that is free) to 65535")
    from flowkit.app.serve import import_gradio, serve, tabs_of, wait

    import_gradio()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        tabs = tabs_of(args.runs, device=options.device(args.device), tell=_tell)
        served = serve(tabs, host=args.host, port=args.port, share=args.share, browser=not args.no_browser)
    except KeyboardInterrupt:
        return
    try:
        print(f"app: {served.url}" + (f" and {served.shared}" if served.shared else ""), flush=True)
        _tell("Control and C ends it")
        wait()
    except KeyboardInterrupt:
        pass  # the ordinary end
    finally:
        served.close()


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
