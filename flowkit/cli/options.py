"""Options that several verbs share: the run, the sampler, the seed, the device, the output."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowkit.config.overrides import Override
from flowkit.errors import UserError

if TYPE_CHECKING:
    from flowkit.artifacts import Artifact


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, ``--seed``, ``--device`` and ``--json``."""
    parser.add_argument(
        "run", metavar="RUN", help="a run folder, a pretrained name (flowkit list pretrained) or a model folder"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws (default 0)")
    add_device_argument(parser)
    add_json_argument(parser)


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """``--device``."""
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one (default)"
    )


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def add_sampler_arguments(parser: argparse.ArgumentParser) -> None:
    """Changes of the run's sampler; :func:`sampler_overrides` reads them."""
    group = parser.add_argument_group("sampler", "what differs from the run's own sampler")
    group.add_argument("--steps", type=int, help="steps of the grid")
    group.add_argument("--solver", metavar="NAME", help="Euler, Midpoint, Heun, ... (flowkit list solvers)")
    group.add_argument("--grid", metavar="NAME", help="where the steps lie (flowkit list grids)")
    group.add_argument(
        "--tolerance", type=float, metavar="TOL", help="adaptive steps with this relative and absolute tolerance"
    )
    group.add_argument(
        "--eta",
        type=float,
        metavar="ETA",
        help="steps that follow the spread which an AdaFlow run has learnt, with this error each; --steps is the most",
    )
    group.add_argument("--guidance", type=float, metavar="SCALE", help="classifier-free guidance of this scale")
    group.add_argument("--temperature", type=float, help="scale of the source's deviation")


def sampler_overrides(args: argparse.Namespace) -> list[Override]:
    """The sampler options of a command line as overrides of the run's recipe.

    Raises:
        UserError: a value that cannot be.
    """
    overrides: list[Override] = []
    if args.steps is not None:
        if args.steps < 1:
            raise UserError(f"--steps {args.steps}: at least 1")
        if args.tolerance is not None:
            raise UserError("--steps and --tolerance exclude each other: a tolerance chooses the steps itself")
        overrides.append(("sampler.steps", str(args.steps)))
        if args.eta is None:
            overrides.append(("sampler.controller", "null"))
    if args.solver is not None:
        overrides.append(("sampler.solver", args.solver))
    if args.grid is not None:
        overrides.append(("sampler.grid", args.grid))
    if args.tolerance is not None:
        if not args.tolerance > 0:
            raise UserError(f"--tolerance {args.tolerance}: must be positive, e.g. 1e-3")
        spec = {"class_path": "Tolerance", "init_args": {"rtol": args.tolerance, "atol": args.tolerance}}
        overrides.append(("sampler.controller", json.dumps(spec)))
    if args.eta is not None:
        overrides += _eta_overrides(args)
    if args.guidance is not None:
        overrides.append(
            ("sampler.guidance", json.dumps({"class_path": "ClassifierFree", "init_args": {"scale": args.guidance}}))
        )
    if args.temperature is not None:
        if not args.temperature >= 0:
            raise UserError(f"--temperature {args.temperature}: must not be negative")
        overrides.append(("sampler.temperature", str(args.temperature)))
    return overrides


def _eta_overrides(args: argparse.Namespace) -> list[Override]:
    """Steps by the learnt spread. The class is named first, which keeps what the run's recipe says of it: the most
    steps, unless ``--steps`` says that.
    """
    if args.tolerance is not None:
        raise UserError("--eta and --tolerance exclude each other: both choose the steps")
    if not args.eta >= 0:
        raise UserError(f"--eta {args.eta}: must be 0 or more; inf makes one step")
    eta = ".inf" if args.eta == float("inf") else repr(args.eta)  # as YAML writes it
    overrides = [("sampler.controller", "VarianceAdaptive"), ("sampler.controller.eta", eta)]
    return overrides + ([] if args.steps is None else [("sampler.controller.max_steps", str(args.steps))])


def load_run(args: argparse.Namespace, *, with_data: bool = False) -> Artifact:
    """The run that ``args.run`` names, on ``args.device``, with the command line's changes of its sampler."""
    from flowkit.artifacts import from_pretrained

    overrides = [*(sampler_overrides(args) if hasattr(args, "steps") else ()), *args.overrides]
    return from_pretrained(args.run, device=device(args.device), overrides=overrides, with_data=with_data)


def device(name: str) -> str:
    """``auto`` as a device's name; others unchanged."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def trainer_class() -> type:
    """The class that a recipe's ``trainer`` key configures."""
    from flowkit.train.trainer import Trainer

    return Trainer


def add_request_argument(parser: argparse.ArgumentParser, told: str) -> None:
    """``--request KEY=VALUE``, for what only the domain understands."""
    parser.add_argument("--request", action="append", default=[], metavar="KEY=VALUE", help=told)


def request(args: argparse.Namespace) -> dict[str, Any]:
    """What ``--request`` gave, values read as YAML.

    Raises:
        UserError: an item that is no KEY=VALUE.
    """
    from flowkit.config.yamlfile import parse_yaml

    found: dict[str, Any] = {}
    for item in args.request:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UserError(f"--request {item!r}: expected KEY=VALUE")
        found[key] = parse_yaml(value, f"--request {key}")
    return found


def print_json(value: Any) -> None:
    """Write ``value`` as JSON on standard output."""
    json.dump(value, sys.stdout, indent=1, ensure_ascii=False, default=str)
    print()


def print_table(rows: Iterable[tuple[str, ...]]) -> None:
    """Print rows in aligned columns (the last one runs free)."""
    rows = list(rows)
    if rows:
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
        for row in rows:
            print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip())


def output_folder(path: str | Path) -> Path:
    """Create the folder for results.

    Raises:
        UserError: it is a file or cannot be made.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: {error.strerror}") from None
    return folder
