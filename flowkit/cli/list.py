"""``flowkit list KIND``: the names a recipe may use."""

from __future__ import annotations

import argparse
import importlib
import inspect
import itertools
import re
from pathlib import Path

from flowkit.cli import options
from flowkit.errors import UserError, nearest

EXAMPLE = """examples:
  flowkit list methods
  flowkit list methods ConsistencyFM   # what it claims, what was measured, how to repeat it
  flowkit list methods all             # that of every method
  flowkit list recipes --json          # with the whole descriptions"""

#: Where a sentence ends: not after an initial (K. Ito) or an abbreviation (e.g.); a command may follow it.
SENTENCE_END = re.compile(r"(?:(?<=[\w)\]'`][a-z0-9)\]'`%][.!?])|(?<=[A-Z]{2}[.!?])) +(?=[A-Z`]|flowkit )")

#: Kind -> (module, base class, what it is). Imported only when asked for.
KINDS = {
    "methods": ("flowkit.objectives.objective", "Objective", "what is minimised"),
    "tasks": ("flowkit.tasks", "Task", "a domain's side of training"),
    "data": ("flowkit.data", "DataSource", "data sources"),
    "networks": ("flowkit.nn.network", "Network", "networks that a task may build"),
    "sources": ("flowkit.sources.source", "Source", "the law of x0"),
    "paths": ("flowkit.paths.path", "Path", "where x_t lies between x0 and x1"),
    "couplings": ("flowkit.couplings.coupling", "Coupling", "who is paired with whom"),
    "times": ("flowkit.times.law", "TimeLaw", "laws of training times"),
    "grids": ("flowkit.times.law", "TimeGrid", "grids of sampling times"),
    "predictions": ("flowkit.fields.predictions", "Prediction", "what a network predicts"),
    "guidance": ("flowkit.fields.guidance", "Guidance", "guidance of sampling"),
    "solvers": ("flowkit.solvers.solver", "Solver", "the method of one step"),
    "controllers": ("flowkit.solvers.solver", "Controller", "who chooses step sizes"),
    "topologies": ("flowkit.train.decentralised.topology", "Topology", "who learns from whom in training"),
}
NAMED = {"recipes": "recipes by name", "pretrained": "models that ship with plugins", "plugins": "installed plugins"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    parser.add_argument("kind", nargs="?", metavar="KIND", help="one of: " + ", ".join([*NAMED, *KINDS]))
    parser.add_argument("name", nargs="?", metavar="NAME", help="of methods: all that is known of one, or of all")
    options.add_json_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Print the names."""
    if args.kind == "methods":
        from flowkit.cli.list_methods import show_methods

        show_methods(args.name, json=args.json)
        return
    if args.name:
        raise UserError(
            f"unknown argument {args.name!r}: only methods are shown one by one (flowkit list methods NAME)"
        )
    rows = entries(args.kind)
    if args.json:
        options.print_json([{"name": name, "summary": summary} for name, summary in rows])
    else:
        options.print_table([(name, SENTENCE_END.split(summary)[0]) for name, summary in rows])


def entries(kind: str | None) -> list[tuple[str, str]]:
    """(name, summary) of every entry of ``kind``; the kinds themselves where none is given."""
    if kind is None:
        return [*NAMED.items(), *((name, what) for name, (_, _, what) in KINDS.items())]
    if kind == "recipes":
        return _recipes()
    if kind == "plugins":
        return _plugins()
    if kind == "pretrained":
        from flowkit.artifacts import describe_run, pretrained_names

        return [(name, str(describe_run(name).get("title", ""))) for name in pretrained_names()]
    if kind in KINDS:
        return [(name, first_line(cls)) for name, cls in sorted(classes(kind).items())]
    raise UserError(f"nothing is listed under {kind!r}; {nearest(kind, [*NAMED, *KINDS])}")


def classes(kind: str) -> dict[str, type]:
    """The classes of ``kind`` by short name."""
    from flowkit.config.classes import known
    from flowkit.config.plugins import import_classes

    import_classes()
    module, name, _ = KINDS[kind]
    return known(getattr(importlib.import_module(module), name))


def first_line(cls: type) -> str:
    """The first paragraph of a class's own documentation."""
    return (inspect.cleandoc(cls.__doc__ or "")).split("\n\n")[0].replace("\n", " ")


def _recipes() -> list[tuple[str, str]]:
    from flowkit.config.recipe import recipe_names

    return [(name, recipe_description(path)) for name, path in recipe_names().items()]


def recipe_description(path: Path) -> str:
    """What a recipe says of itself: its ``description``, else the comment that it starts with."""
    from flowkit.config.yamlfile import read_yaml

    raw = read_yaml(path)
    return str(raw.get("description") or _comment(path)) if isinstance(raw, dict) else "not a recipe"


def _comment(path: Path) -> str:
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    return " ".join(line.lstrip("# ") for line in lines).strip()


def _plugins() -> list[tuple[str, str]]:
    from flowkit.config import plugins

    rows = [(plugin.name, plugin.summary) for plugin in plugins.plugins().values()]
    return rows + [(name, f"could not be loaded: {reason}") for name, reason in plugins.failures.items()]
