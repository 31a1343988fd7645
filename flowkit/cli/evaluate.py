"""``flowkit evaluate RUN``: the task's metrics on a split of the run's data."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from flowkit import atomic
from flowkit.cli import options
from flowkit.errors import UserError, writing

if TYPE_CHECKING:
    from flowkit.data import Samples
    from flowkit.tasks import Task

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
    parser.add_argument(
        "--bpd",
        action="store_true",
        help="bits per dimension instead, of bytes; --samples: noises of each, --tolerance: default 1e-5",
    )
    parser.add_argument(
        "--dequantisation",
        choices=("truncated", "uniform"),
        help="from bytes to states (default truncated); with --bpd",
    )
    parser.add_argument("--out", metavar="FILE", help="also write the metrics to this JSON file")
    parser.set_defaults(overrides=True)


def _bits(args: argparse.Namespace, task: Task, samples: Samples) -> dict[str, float]:
    from flowkit.train.bits import DEQUANTISERS, bits_per_dimension

    if not len(samples):
        return {}
    dequantiser = DEQUANTISERS[args.dequantisation or "truncated"]()
    draws = 1 if args.samples is None else args.samples
    return bits_per_dimension(
        task, samples, dequantiser=dequantiser, draws=draws, limit=args.limit, seed=args.seed,
        tolerance=args.tolerance or 1e-5,
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Measure and print."""
    from pathlib import Path

    from flowkit.tasks import Report

    if args.dequantisation and not args.bpd:
        raise UserError("--dequantisation is for bits per dimension: add --bpd")
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit {args.limit}: at least 1 sample")
    request = options.request(args)
    request |= {name: value for name in ("samples", "metrics") if (value := getattr(args, name)) is not None}
    loaded = options.load_run(args, with_data=True)
    assert loaded.data is not None  # with_data raises a UserError where the recipe has none
    loaded.data.prepare()
    samples = loaded.data.split(args.split)
    if args.bpd:
        report = Report(_bits(args, loaded.task, samples))
    else:
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
