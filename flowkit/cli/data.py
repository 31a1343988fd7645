"""``flowkit data prepare|stats RECIPE``: fetch and cache a recipe's data; its statistics, computed and not guessed."""

from __future__ import annotations

import argparse

from flowkit.cli import options

EXAMPLE = "example:\n  flowkit data prepare speech/matcha-prompts\n  flowkit data stats speech/matcha-prompts --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    parser.add_argument(
        "action", choices=("prepare", "stats"), help="prepare: fetch and cache; stats: print the statistics"
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file or a recipe's name")
    options.add_json_argument(parser)
    parser.set_defaults(overrides=True)


def run(args: argparse.Namespace) -> None:
    """Prepare, then print sizes or statistics."""
    import yaml

    from flowkit.config.recipe import load_recipe

    recipe = load_recipe(args.recipe, args.overrides, trainer=options.trainer_class())
    data = recipe.build("data").data
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
