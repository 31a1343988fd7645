"""``flowkit export RUN``: make programs of a trained model, for torch.export or ONNX."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flowkit.cli import options

EXAMPLE = """examples:
  flowkit export policy/fork --format onnx --steps 2
  flowkit export speech/prompts-en --format onnx --steps 4 --solver Midpoint --out exports/voice
  flowkit export runs/river --format torch --format onnx --steps 10

Each program is verified against the model on random inputs of several sizes before the folder is put in place."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    parser.add_argument(
        "run", metavar="RUN", help="a run folder, a pretrained name (flowkit list pretrained) or a model folder"
    )
    parser.add_argument(
        "--format", action="append", choices=("onnx", "torch"), default=[],
        help="of the programs; may be given twice (default onnx)",
    )  # fmt: skip
    parser.add_argument("--out", metavar="FOLDER", help="must not exist (default exports/NAME)")
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs that verify (default 0)")
    options.add_sampler_arguments(parser)
    options.add_json_argument(parser)
    parser.set_defaults(overrides=True, device="cpu")


def run(args: argparse.Namespace) -> None:
    """Export, verify, and say what came out."""
    from flowkit.export.runtime import read_info
    from flowkit.export.write import write_export

    loaded = options.load_run(args)
    folder = Path(args.out) if args.out else Path("exports") / Path(args.run).resolve().name
    write_export(
        folder, loaded.task, loaded.sampler, formats=tuple(dict.fromkeys(args.format)) or ("onnx",), seed=args.seed,
        about={"source": args.run},
        tell=lambda line: print(line, file=sys.stderr if args.json else sys.stdout, flush=True),
    )  # fmt: skip
    info = read_info(folder)
    if args.json:
        options.print_json({"folder": str(folder), **{key: value for key, value in info.items() if key != "facts"}})
    else:
        sampler = info["sampler"]
        print(f"export: {folder} ({sampler['steps']} steps of {sampler['solver']}; README.md says how to run it)")
