"""A recipe: the object graph of one experiment as YAML, checked against constructor types before anything is built.

Top-level keys: ``data`` (a DataSource), ``task`` (a Task), ``trainer`` and ``sampler`` (arguments of the Trainer and
the Sampler), ``seed``, ``description``, ``teacher`` (a run that the objective learns from) and, in runs that fit a
trained model to other data, ``finetune``. Whoever
trains hands the trainer's class over: this module knows none.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import set_parsing_settings

from flowkit.config import plugins
from flowkit.config.building import build
from flowkit.config.check import complete
from flowkit.config.classes import parameters
from flowkit.config.overrides import Override, apply_overrides
from flowkit.config.typed import typed
from flowkit.config.yamlfile import read_yaml
from flowkit.data import DataSource
from flowkit.errors import UserError, nearest
from flowkit.finetuning.finetune import Finetune
from flowkit.solvers.sampler import Sampler
from flowkit.tasks import Task

#: Keys of a recipe that are plain values, with their types.
_PLAIN: dict[str, Any] = {"seed": int, "description": str, "teacher": str}


@dataclass(frozen=True)
class Built:
    """The objects of a recipe. What was not asked for is None, whatever the annotation says."""

    task: Task
    sampler: Sampler
    data: DataSource
    trainer: Any
    seed: int


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. ``resolved`` is plain data with every class in full: it parses back to itself."""

    name: str
    resolved: Mapping[str, Any]
    #: What was checked and can be built: key -> type.
    sections: Mapping[str, type] = field(repr=False)

    @property
    def seed(self) -> int:
        """The seed of the experiment."""
        return int(self.resolved.get("seed", 0))

    def dump(self) -> str:
        """The resolved recipe as YAML."""
        return yaml.safe_dump(dict(self.resolved), sort_keys=False, allow_unicode=True, width=120)

    def build(self, *keys: str) -> Built:
        """Build the objects ``keys`` (default: all that were read); weights are drawn from the recipe's seed.

        Raises:
            UserError: a constructor refused a value.
        """
        with torch.random.fork_rng(devices=[]):  # constructors draw on the CPU; the caller's generator is left alone
            torch.manual_seed(self.seed)
            made = {key: self._build_one(key) for key in keys or tuple(k for k in self.sections if k != "finetune")}
            if "task" in made and "finetune" in self.sections:
                self._build_one("finetune").apply(made["task"])
        return Built(**{"task": None, "sampler": None, "data": None, "trainer": None, **made}, seed=self.seed)

    def _build_one(self, key: str) -> Any:
        with _policy():
            try:
                return build(self.resolved[key], self.sections[key], key)
            except UserError as error:
                raise UserError(f"{self.name}: {error}") from error
            except (ValueError, TypeError, ArithmeticError, LookupError, RuntimeError) as error:
                raise UserError(f"{self.name}: {_refusal(key, error)}") from error


def _refusal(key: str, error: Exception) -> str:
    """What the constructor said that refused a value."""
    cause: BaseException = error
    while cause.__cause__ is not None and not isinstance(cause, UserError):
        cause = cause.__cause__
    if isinstance(cause, UserError):
        return str(cause)
    kind = "" if isinstance(cause, ValueError | TypeError) else f"{type(cause).__name__}: "
    return f"{key} cannot be built with these values: {kind}{plugins.one_line(cause)}"


def load_recipe(name: str | Path, overrides: Iterable[Override] = (), *, trainer: type | None = None) -> Recipe:
    """Read a recipe by path or by name (``speech/matcha-prompts``), apply overrides, check it.

    Args:
        name: a YAML file, or the name of a recipe that ships with FlowKit or a plugin.
        overrides: (dotted path, text) pairs.
        trainer: the class that the recipe's ``trainer`` key configures; None leaves that key unread.

    Raises:
        UserError: one line that names the file, the key and the way out.
    """
    path = find_recipe(name)
    return parse_recipe(read_yaml(path), str(name), overrides, trainer=trainer)


def parse_recipe(
    raw: Any,
    name: str,
    overrides: Iterable[Override] = (),
    *,
    trainer: type | None = None,
    keys: Sequence[str] = ("data", "task", "trainer", "sampler"),
) -> Recipe:
    """Check a recipe that is already plain data; ``name`` starts every message.

    Only ``keys`` are read (``trainer`` only with its class); the others are carried along as they are, for the record.
    """
    plugins.import_classes()
    if not isinstance(raw, Mapping):
        raise UserError(
            f"{name}: a recipe is a mapping with the keys data, task, trainer and sampler, got {_kind(raw)}"
        )
    sections = {key: base for key, base in _sections(trainer).items() if key in keys}
    if "task" in keys and raw.get("finetune") is not None:
        sections["finetune"] = Finetune
    allowed = {"data", "task", "trainer", "sampler", "finetune", *_PLAIN}
    for key in raw:
        if key not in allowed:
            raise UserError(f"{name}: a recipe has no key {key!r}; {nearest(str(key), allowed)}")
    changed = apply_overrides(raw, overrides, {**sections, **_PLAIN})
    for key in sections:
        if key in ("data", "task") and changed.get(key) is None:
            raise UserError(f"{name}: the recipe has no {key!r}")
    completed = {key: complete(changed.get(key) or {}, base, f"{name}: {key}") for key, base in sections.items()}
    completed.update({key: changed[key] for key in _PLAIN if changed.get(key) is not None})
    completed.setdefault("seed", 0)
    written = _typed(completed, sections, name)
    carried = {key: value for key, value in raw.items() if key not in written and key not in _PLAIN}
    order = ("description", "teacher", "data", "task", "finetune", "trainer", "sampler", "seed")
    resolved = {key: {**carried, **written}[key] for key in order if key in carried or key in written}
    return Recipe(name, resolved, dict(sections))


def recipe_names() -> dict[str, Path]:
    """The recipes that ship with FlowKit and its plugins, by name."""
    found: dict[str, Path] = {}
    roots = [(Path(str(resources.files("recipes"))), "")]
    roots += [(Path(p.recipes), p.name + "/") for p in plugins.plugins().values() if p.recipes is not None]
    for root, prefix in roots:
        for path in sorted(root.rglob("*.yaml")):
            found.setdefault(prefix + path.relative_to(root).with_suffix("").as_posix(), path)
    return found


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe given by path or name."""
    path = Path(name)
    if path.is_file():
        return path
    known = recipe_names()
    plain = str(name).removeprefix("recipes/").removesuffix(".yaml").removesuffix(".yml")
    if plain in known:
        return known[plain]
    kind = "is a folder, not a recipe" if path.is_dir() else "is neither a file nor the name of a recipe"
    raise UserError(f"recipe {str(name)!r} {kind}; {nearest(plain, known)}")


def _sections(trainer: type | None) -> dict[str, Any]:
    sections: dict[str, Any] = {"data": DataSource, "task": Task}
    if trainer is not None:
        sections["trainer"] = trainer
    sections["sampler"] = Sampler
    return sections


def _typed(completed: dict[str, Any], sections: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Check every value against its type and write every default out."""
    present = {key: base for key, base in {**sections, **_PLAIN}.items() if key in completed}
    with _policy():
        return {key: typed(completed[key], base, f"{name}: {key}") for key, base in present.items()}


@contextmanager
def _policy() -> Iterator[None]:
    """The second fence round imports: jsonargparse itself, which reads the values, refuses every path outside the core
    and the plugins."""
    from jsonargparse import _common

    kept = dict(_common.parsing_settings)
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=list(plugins.allowed_packages()),
        instantiate_subclass_spec_in_any=False,
    )
    try:
        yield
    finally:
        _common.parsing_settings.update(kept)


def _kind(value: Any) -> str:
    return "an empty file" if value is None else f"a {type(value).__name__}"


def describe_arguments(cls: type) -> list[str]:
    """One line an argument, for ``flowkit show CLASS``."""
    from flowkit.config.classes import describe

    lines = []
    for parameter in (parameters(cls) or {}).values():
        default = "required" if parameter.required else f"default {_default(parameter.default)}"
        lines.append(f"{parameter.name}: {describe(parameter.annotation)} ({default})")
    return lines


def _default(value: Any) -> str:
    """A default as a recipe's reader understands it: a class by its name, an object without a text by its class."""
    if inspect.isclass(value):
        return value.__name__
    return f"{type(value).__name__}()" if type(value).__repr__ is object.__repr__ else repr(value)
