"""``flowkit new method|domain NAME``: a working skeleton with its test and a recipe that trains in seconds."""

from __future__ import annotations

import argparse
import keyword
import re
import sys
from pathlib import Path

from flowkit import atomic
from flowkit.cli import options
from flowkit.errors import UserError, writing

EXAMPLE = """example:
  flowkit new method late-weighting
  python -m pytest test_late_weighting.py
  flowkit train late_weighting.yaml --plugin late_weighting.py"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    parser.add_argument(
        "kind",
        choices=("method", "domain"),
        help="method: an objective in one file; domain: a package with data, task, verbs",
    )
    parser.add_argument("name", metavar="NAME", help="letters, digits, - and _: late-weighting")
    parser.add_argument("--out", default=".", metavar="FOLDER", help="where it is written (default here)")
    options.add_json_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Write the files, all or none."""
    from flowkit.cli import domain_template, method_template

    module = re.sub(r"[-\s]+", "_", args.name).lower()
    if not module.isidentifier() or keyword.iskeyword(module) or not re.match("[a-z]", module):
        raise UserError(f"{args.name!r} cannot name a {args.kind}: start with a letter, then letters, digits, - and _")
    if module in sys.stdlib_module_names or module in ("torch", "numpy", "flowkit", "domains"):
        raise UserError(f"{module}.py would hide the module {module!r} from Python: choose another name")
    names = {"MODULE": module, "CLASS": "".join(part.capitalize() for part in module.split("_"))}
    files = (method_template if args.kind == "method" else domain_template).files(module)
    root = options.output_folder(args.out)
    for relative in files:
        if (root / relative).exists():
            raise UserError(f"{root / relative} exists already: choose another name or --out")
    written = []
    for relative, text in files.items():
        for key, value in names.items():
            text = text.replace(f"@{key}@", value)
        target = root / relative
        with writing(target):
            atomic.write_text(target, text)
        written.append(str(target))
    plugin = root / (f"{module}.py" if args.kind == "method" else module)
    recipe = root / (f"{module}.yaml" if args.kind == "method" else Path(module) / "recipes" / "smoke.yaml")
    test = root / (f"test_{module}.py" if args.kind == "method" else f"{module}/tests")
    if args.json:
        options.print_json({"files": written})
        return
    print("\n".join(written))
    print(f"\ntest it:  python -m pytest {test}\ntrain it: flowkit train {recipe} --plugin {plugin}")
