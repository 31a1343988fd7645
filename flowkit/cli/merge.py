"""``flowkit merge ADAPTER ...``: make a plain model of adapters and their base."""

from __future__ import annotations

import argparse
from pathlib import Path

from flowkit.cli import options
from flowkit.errors import UserError

EXAMPLE = """examples:
  flowkit merge runs/kitchen/adapter --out models/kitchen
  flowkit merge runs/kitchen/adapter runs/street/adapter --scale 0.7 --scale 0.5 --out models/both"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    parser.add_argument("adapters", nargs="+", metavar="ADAPTER", help="folders that flowkit finetune wrote")
    parser.add_argument(
        "--scale", action="append", type=float, default=[], metavar="X",
        help="of each adapter's term, in their order (default 1)",
    )  # fmt: skip
    parser.add_argument("--base", metavar="RUN", help="where the base lies now, if it was moved")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the model's folder")
    options.add_json_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Merge and say where the model is."""
    from flowkit import adapters
    from flowkit.artifacts import from_pretrained, save_pretrained
    from flowkit.model_card import Card

    if args.scale and len(args.scale) != len(args.adapters):
        raise UserError(f"--scale was given {len(args.scale)} times for {len(args.adapters)} adapters: one each")
    records = [adapters.read_record(folder) for folder in args.adapters]
    base = from_pretrained(args.base or records[0]["base"])
    scales = args.scale or [1.0] * len(args.adapters)
    for number, (folder, scale) in enumerate(zip(args.adapters, scales, strict=True)):
        adapters.attach(base.task, folder, name=f"adapter_{number}", scale=scale)
    adapters.merge(base.task)
    names = ", ".join(f"{folder} (x {scale:g})" for folder, scale in zip(args.adapters, scales, strict=True))
    card = Card(
        title=f"{records[0]['base']} with adapters", summary=f"Merged from {names}.",
        data="; ".join(str(record.get("data", "")) for record in records), licence=str(records[0].get("licence", "")),
    )  # fmt: skip
    folder = save_pretrained(Path(args.out), base.task, recipe=base.recipe, card=card)
    if args.json:
        options.print_json({"folder": str(folder), "adapters": args.adapters, "scales": scales})
    else:
        print(f"model: {folder}\nsample it: flowkit sample {folder}")
