"""``flowkit show THING``: a run, a pretrained model, a recipe (resolved) or a class (what it is, what it takes)."""

from __future__ import annotations

import argparse
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flowkit.cli import options
from flowkit.errors import UserError, nearest

EXAMPLE = """examples:
  flowkit show speech/prompts-en
  flowkit show generic/mixture-flow-matching --trainer.steps 10
  flowkit show FlowMatching"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    parser.add_argument(
        "thing", metavar="RUN|RECIPE|CLASS", help="a run folder, a pretrained name, a recipe or a class"
    )
    options.add_json_argument(parser)
    parser.set_defaults(overrides=True)


def run(args: argparse.Namespace) -> None:
    """Find out what is meant and print it."""
    from flowkit.config.recipe import recipe_names

    thing, path = args.thing, Path(args.thing)
    recipes = recipe_names()
    if path.is_dir() or _is_pretrained(thing):
        _show_run(args)
    elif path.is_file() or thing.removeprefix("recipes/").removesuffix(".yaml") in recipes:
        _show_recipe(args)
    else:
        found = _find_class(thing)
        if found is None:
            from flowkit.artifacts import pretrained_names

            raise UserError(
                f"nothing is called {thing!r}; {nearest(thing, [*recipes, *pretrained_names(), *_all_classes()])}"
            )
        _show_class(args, found)


def _is_pretrained(name: str) -> bool:
    from flowkit.artifacts import pretrained_names

    return name in pretrained_names()


def _show_run(args: argparse.Namespace) -> None:
    from flowkit.artifacts import describe_run

    facts = describe_run(args.thing)
    if args.json:
        options.print_json(facts)
        return
    options.print_table([*_rows(facts), *_adapter_rows(facts)])
    print("\nrecipe:\n" + Path(facts["recipe"]).read_text(encoding="utf-8"), end="")


def _rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The facts that are there, long ones over several lines, the entries of a mapping one below the other."""
    for name, value in facts.items():
        if value is None or value in ({}, [], ""):
            continue
        if isinstance(value, Mapping):
            lines = [f"{key}: {_brief(entry)}" for key, entry in value.items()]
        else:
            lines = textwrap.wrap(_number(value), 96, break_long_words=False, break_on_hyphens=False)
        yield from zip([name, *[""] * (len(lines) - 1)], lines, strict=True)


def _adapter_rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Where ``flowkit finetune`` would put adapters, with the names that its --target looks in."""
    from flowkit.config.recipe import load_recipe
    from flowkit.finetuning.layers import adapter_parameters, candidates

    if "layers" in facts:  # it is an adapter itself
        return
    rank = 8
    task = load_recipe(Path(facts["recipe"])).build("task").task
    try:
        found = candidates(task, rank=rank)
    except UserError:
        return
    yield "adapters", f"of rank {rank} go to {len(found)} layers, {adapter_parameters(found, rank):,} parameters:"
    patterns: dict[str, int] = {}
    for name in found:
        pattern = re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)
        patterns[pattern] = patterns.get(pattern, 0) + 1
    yield from (("", pattern if count == 1 else f"{pattern} ({count})") for pattern, count in patterns.items())


def _brief(value: Any) -> str:
    """A list of a hundred symbols says no more than its beginning."""
    text = _number(value)
    return text if isinstance(value, str) or len(text) <= 96 else text[:93] + "..."


def _number(value: Any) -> str:
    """Four digits of a fraction are enough to read; ``--json`` has all."""
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())


def _show_recipe(args: argparse.Namespace) -> None:
    from flowkit.cli.list import recipe_description
    from flowkit.config.recipe import load_recipe, recipe_names

    recipe = load_recipe(args.thing, args.overrides, trainer=options.trainer_class())
    if args.json:
        options.print_json(recipe.resolved)
    else:
        path = Path(args.thing)
        if not path.is_file():
            path = recipe_names()[args.thing.removeprefix("recipes/").removesuffix(".yaml")]
        told = "" if recipe.resolved.get("description") else recipe_description(path)  # else it is in the dump
        if told:
            print(textwrap.fill(told, 110, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False))
        print(recipe.dump(), end="")


def _all_classes() -> dict[str, type]:
    from flowkit.cli.list import KINDS, classes
    from flowkit.solvers.sampler import Sampler

    found: dict[str, type] = {"Sampler": Sampler, "Trainer": options.trainer_class()}
    for kind in KINDS:
        found.update(classes(kind))
    return found


def _find_class(name: str) -> type | None:
    return _all_classes().get(name)


def _show_class(args: argparse.Namespace, cls: type) -> None:
    from flowkit.config.classes import import_path
    from flowkit.config.recipe import describe_arguments

    documentation = inspect.cleandoc(cls.__doc__ or "")
    if args.json:
        options.print_json(
            {"class": import_path(cls), "documentation": documentation, "arguments": describe_arguments(cls)}
        )
        return
    print(f"{import_path(cls)}\n\n{documentation}\n\narguments:")
    for line in describe_arguments(cls) or ["(none)"]:
        print(f"  {line}")
