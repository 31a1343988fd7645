"""``flowkit evaluate RUN``: the task's metrics on a split of the run's data."""

from __future__ import annotations

import argparse

from flowkit import atomic
from flowkit.cli import options
from flowkit.errors import writing

EXAMPLE = "example:\n  flowkit evaluate runs/mixture --split test --steps 4 --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    options.add_run_arguments(parser)
    options.add_sampler_arguments(parser)
    parser.add_argument(
        "--split", choices=("train", "validation", "test"), default="test", help="which split (default test)"
    )
    parser.add_argument("--limit", type=int, help="at most this many samples")
    parser.add_argument("--out", metavar="FILE", help="also write the metrics to this JSON file")
    parser.set_defaults(overrides=True)


def run(args: argparse.Namespace) -> None:
    """Measure and print."""
    from pathlib import Path

    loaded = options.load_run(args, with_data=True)
    assert loaded.data is not None  # with_data raises a UserError where the recipe has none
    loaded.data.prepare()
    metrics = loaded.task.evaluate(
        loaded.data.split(args.split), sampler=loaded.sampler, seed=args.seed, limit=args.limit
    )
    result = {"run": str(loaded.folder), "split": args.split, "seed": args.seed, "metrics": metrics}
    if args.out:
        target = Path(args.out)
        options.output_folder(target.parent)
        with writing(target):
            atomic.write_json(target, result)
    if args.json:
        options.print_json(result)
    else:
        options.print_table((name, f"{value:.6g}") for name, value in metrics.items())
