"""``flowkit data prepare|stats|shard RECIPE``: fetch and cache a recipe's data; its statistics, computed and not
guessed; the data as shards, for sets that outgrow a disk or lie elsewhere."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from flowkit.cli import options
from flowkit.data import DataSource
from flowkit.errors import UserError

EXAMPLE = """example:
  flowkit data prepare speech/matcha-prompts
  flowkit data stats speech/matcha-prompts --json
  flowkit data shard speech/matcha-prompts --out /disk1/prompts --out /disk2/prompts --size 256"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    parser.add_argument(
        "action", choices=("prepare", "stats", "shard"),
        help="prepare: fetch and cache; stats: print the statistics; shard: write tar files with an index",
    )  # fmt: skip
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file or a recipe's name")
    group = parser.add_argument_group("shard", "given again, the same command goes on where it was interrupted")
    group.add_argument(
        "--out", action="append", metavar="FOLDER", help="where shards go; repeat it for more disks (needed)"
    )
    group.add_argument("--size", type=float, metavar="MIB", help="largest size of a shard, MiB (default 256)")
    options.add_json_argument(parser)
    parser.set_defaults(overrides=True)


def run(args: argparse.Namespace) -> None:
    """Prepare, then print sizes or statistics, or write shards."""
    import yaml

    from flowkit.config.recipe import load_recipe

    if args.action != "shard" and (args.out or args.size is not None):
        raise UserError(f"--out and --size belong to flowkit data shard, not to {args.action}")
    if args.action == "shard" and not args.out:
        raise UserError("flowkit data shard needs --out FOLDER: where the shards shall be")
    recipe = load_recipe(args.recipe, args.overrides, trainer=options.trainer_class())
    data = recipe.build("data").data
    if args.action == "shard":
        about = {"recipe": args.recipe, "overrides": [list(override) for override in args.overrides]}
        _shard(args, data, about)
        return
    data.prepare()
    if args.action == "prepare":
        sizes = {name: len(data.split(name)) for name in ("train", "validation", "test")}
        if args.json:
            options.print_json(sizes)
        else:
            options.print_table((name, f"{size:,} samples") for name, size in sizes.items())
        return
    statistics = dict(data.statistics())
    if args.json:
        options.print_json(statistics)
    else:
        print(yaml.safe_dump(statistics, sort_keys=False, allow_unicode=True, width=120), end="")


def _shard(args: argparse.Namespace, data: DataSource, about: dict[str, object]) -> None:
    from flowkit.shards.records import Sharding
    from flowkit.shards.writer import write_shards
    from flowkit.version import __version__

    size = 256.0 if args.size is None else args.size
    if not 0 < size < math.inf:
        raise UserError(f"--size {size:g}: it is positive, in MiB")
    if not isinstance(data, Sharding):
        raise UserError(
            f"{type(data).__name__} cannot be written as shards: sources of recorded speech and of video clips can"
        )
    data.prepare()
    places = [Path(place).expanduser().absolute() for place in dict.fromkeys(args.out)]
    about = {**about, "source": type(data).__name__, "flowkit": __version__}
    index = write_shards(data.records(), places, size=int(size * 2**20), about=about)
    reader = type(data.shards_source(list(map(str, places)))).__name__
    told = {
        "shards": len(index.shards), "records": index.content["about"]["records"], "bytes": index.content["bytes"],
        "places": list(map(str, places)), "source": reader,
    }  # fmt: skip
    if args.json:
        options.print_json(told)
        return
    options.print_table(
        [
            ("shards", f"{told['shards']:,}"),
            ("records", f"{told['records']:,}"),
            ("MiB", f"{told['bytes'] / 2**20:,.1f}"),
            ("data:", f"{{class_path: {reader}, init_args: {{places: [{', '.join(told['places'])}]}}}}"),
        ]
    )
