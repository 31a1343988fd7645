"""``flowkit evaluate RUN``: the task's metrics on a split of the run's data."""

from __future__ import annotations

import argparse
import sys

from flowkit import atomic
from flowkit.cli import options
from flowkit.errors import UserError, writing

SPLITS = ("train", "validation", "test")
EXAMPLE = "example:\n  flowkit evaluate runs/mixture --split test --steps 4 --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    options.add_run_arguments(parser)
    options.add_sampler_arguments(parser)
    parser.add_argument("--split", choices=SPLITS, default="test", help="which split (default test)")
    parser.add_argument("--limit", type=int, help="at most this many samples")
    parser.add_argument("--samples", type=int, help="predictions of each sample, where a domain makes several")
    parser.add_argument("--metrics", metavar="NAMES", help="more measures, where a domain has heavy ones: names or all")
    options.add_request_argument(parser, "what else to ask of the evaluation, as the domain understands it")
    parser.add_argument("--out", metavar="FILE", help="also write the metrics to this JSON file")
    parser.set_defaults(overrides=True)


def run(args: argparse.Namespace) -> None:
    """Measure and print."""
    from pathlib import Path

    request = options.request(args)
    request |= {name: value for name in ("samples", "metrics") if (value := getattr(args, name)) is not None}
    loaded = options.load_run(args, with_data=True)
    assert loaded.data is not None  # with_data raises a UserError where the recipe has none
    loaded.data.prepare()
    samples = loaded.data.split(args.split)
    report = loaded.task.report(
        samples, sampler=loaded.sampler, seed=args.seed, limit=args.limit, request=request or None
    )
    metrics = dict(report.metrics)
    if not len(samples):
        filled = " or ".join(f"--split {name}" for name in SPLITS if len(loaded.data.split(name)))
        empty = f"the {args.split} split of {args.run} is empty; {filled or 'no split'} holds samples"
        if not metrics:
            raise UserError(f"nothing to measure: {empty}")
        print(f"flowkit: what needs samples was not measured: {empty}", file=sys.stderr)
    result = {"run": str(loaded.folder), "split": args.split, "seed": args.seed, "metrics": metrics}
    for note in report.notes:
        print(f"flowkit: {note}", file=sys.stderr)
    if report.details:
        result |= {"details": dict(report.details), "notes": list(report.notes)}
    if args.out:
        target = Path(args.out)
        options.output_folder(target.parent)
        with writing(target):
            atomic.write_json(target, result)
    if args.json:
        options.print_json(result)
    else:
        plain = ((name, f"{value:.6g}") for name, value in metrics.items())
        options.print_table((tuple(row) for row in report.table) if report.table else plain)
