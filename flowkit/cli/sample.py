"""``flowkit sample RUN``: draw samples and write them as files that can be played or looked at."""

from __future__ import annotations

import argparse

from flowkit.cli import options
from flowkit.errors import UserError

EXAMPLE = "example:\n  flowkit sample runs/mixture -n 1000 --steps 4 --solver Midpoint --out samples"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    options.add_run_arguments(parser)
    options.add_sampler_arguments(parser)
    parser.add_argument("-n", "--number", type=int, default=4, help="how many samples (default 4)")
    parser.add_argument("--out", default="samples", metavar="FOLDER", help="where the files go (default samples)")
    options.add_request_argument(parser, "what to sample, as the domain understands it (a label, a text)")
    parser.set_defaults(overrides=True)


def run(args: argparse.Namespace) -> None:
    """Sample and say where the files are."""
    if args.number < 1:
        raise UserError(f"--number {args.number}: at least 1")
    request = options.request(args)
    loaded = options.load_run(args)
    results = loaded.task.sample(args.number, sampler=loaded.sampler, seed=args.seed, request=request or None)
    folder = options.output_folder(args.out)
    files = {name: str(result.save(folder / name)) for name, result in results.items()}
    if args.json:
        options.print_json({"run": str(loaded.folder), "files": files, "seed": args.seed})
    else:
        for path in files.values():
            print(path)
