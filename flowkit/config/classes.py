"""From the short names of a recipe to classes, and from a class to what its constructor takes.

A recipe may name only classes of the core and of loaded plugins: a dotted path elsewhere is refused before any import.
"""

from __future__ import annotations

import ast
import collections.abc
import dataclasses
import enum
import functools
import importlib
import inspect
import re
import sys
import textwrap
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowkit.config import plugins
from flowkit.errors import UserError, nearest

#: A parameter without a default.
REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Parameter:
    """One constructor argument: its annotation (evaluated; ``Any`` where that failed) and default."""

    name: str
    annotation: Any
    default: Any = REQUIRED

    @property
    def required(self) -> bool:
        """True when a recipe must give it."""
        return self.default is REQUIRED


def known(base: type) -> dict[str, type]:
    """Concrete, public subclasses of ``base`` (itself included) that recipes may name, by short name."""
    found: dict[str, type] = {}
    queue, seen = [base], set()
    while queue:
        cls = queue.pop(0)
        if cls in seen:
            continue
        seen.add(cls)
        queue.extend(cls.__subclasses__())
        public = not cls.__name__.startswith("_") and "<locals>" not in cls.__qualname__
        if public and not inspect.isabstract(cls) and plugins.is_allowed(cls.__module__):
            found.setdefault(cls.__name__, cls)
    return found


def resolve(base: type, name: str, where: str) -> type:
    """The class that ``name`` (short or dotted) means where a ``base`` is expected.

    Raises:
        UserError: unknown, abstract, of another kind, or from elsewhere; ``where`` starts the message.
    """
    candidates = known(base)
    if "." not in name:
        if name in candidates:
            return candidates[name]
        raise UserError(
            f"{where}: no {base.__name__} is named {name!r}; {nearest(name, candidates)}{plugins.failure_note()}"
        )
    if not plugins.is_allowed(name):
        file = name.split(".")[0]
        way_out = (
            f"this recipe was written with a plugin file: give --plugin {file.removeprefix('flowkit_plugin_')}.py"
            if file.startswith("flowkit_plugin_")
            else "a recipe may name only classes of FlowKit and of loaded plugins; "
            + nearest(name.rpartition(".")[2], candidates)
        )
        raise UserError(f"{where}: {name!r} is refused: {way_out}")
    cls = _import(name)
    if not inspect.isclass(cls) or not issubclass(cls, base) or not plugins.is_allowed(cls.__module__):
        raise UserError(f"{where}: {name!r} is no {base.__name__}; {nearest(name.rpartition('.')[2], candidates)}")
    if inspect.isabstract(cls):
        raise UserError(f"{where}: {name!r} is abstract, name one of its kinds; {nearest('', candidates)}")
    return cls


def _import(path: str) -> object:
    """What lies at a dotted path of an allowed package, or None. Nothing but that module is imported."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def import_path(cls: type) -> str:
    """The path that a resolved recipe names a class by."""
    return f"{cls.__module__}.{cls.__qualname__}"


def parameters(cls: type) -> dict[str, Parameter] | None:
    """What the constructor of ``cls`` takes, or None when it takes anything and cannot be checked by name.

    ``**kwargs`` stand for what the next constructor in the line of inheritance takes, to which they are handed on,
    without what the handing call fills in itself.
    """
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    factories = {f.name: f.default_factory for f in fields if f.default_factory is not dataclasses.MISSING}
    found: dict[str, Parameter] = {}
    filled: set[str] = set()
    by_position = 0
    for owner in cls.__mro__:
        if "__init__" not in vars(owner):
            continue
        if owner is object:
            return found
        try:
            signature = inspect.signature(vars(owner)["__init__"])
        except (TypeError, ValueError):
            return None
        declared = list(signature.parameters.values())[1:]  # without self
        filled.update(parameter.name for parameter in declared[:by_position])
        for parameter in declared:
            name, default = parameter.name, parameter.default
            if parameter.kind is parameter.VAR_POSITIONAL:
                return None
            if parameter.kind is parameter.VAR_KEYWORD or name in found or name in filled:
                continue
            if name in factories:
                default = factories[name]()
            found[name] = Parameter(name, _evaluate(owner, name, parameter.annotation), default)
        if not any(p.kind is p.VAR_KEYWORD for p in declared):
            return found
        by_position, names = _filled(owner)
        filled |= names
    return None


@functools.cache
def _filled(owner: type) -> tuple[int, frozenset[str]]:
    """What the constructor of ``owner`` gives the next one itself: how many by position, and which by name."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(vars(owner)["__init__"])))
    except (OSError, TypeError, SyntaxError):
        return 0, frozenset()
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__":
            return len(call.args), frozenset(keyword.arg for keyword in call.keywords if keyword.arg)
    return 0, frozenset()


def _evaluate(owner: type, name: str, annotation: Any) -> Any:
    """The annotation as a type. Postponed annotations are read in the module of the class that declares them."""
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    for declaring in owner.__mro__:  # a dataclass repeats the fields of its bases, which live in other modules
        if declaring is not owner and name not in getattr(declaring, "__annotations__", {}):
            continue
        module = sys.modules.get(declaring.__module__)
        try:
            return eval(
                annotation, dict(vars(module)) if module else {}, dict(vars(declaring))
            )  # source text of ours, never a recipe's
        except Exception:
            continue
    return Any


@dataclass(frozen=True)
class Slot:
    """Where a recipe gives an object: the base class, how many leading arguments a factory fills in, whether only
    the base itself fits (dataclasses), and whether it is a factory that is wanted."""

    base: type
    skip: int = 0
    closed: bool = False
    factory: bool = False


def slot(annotation: Any) -> Slot | None:
    """How ``annotation`` takes an object (a class, or a factory ``Callable[[...], Class]``), if it does."""
    for option in _options(annotation):
        if typing.get_origin(option) is collections.abc.Callable:
            arguments = typing.get_args(option)
            if len(arguments) == 2 and _is_object(arguments[1]):
                leading = len(arguments[0]) if isinstance(arguments[0], list) else 0
                return Slot(arguments[1], skip=leading, factory=True)
        elif _is_object(option):
            return Slot(option, closed=dataclasses.is_dataclass(option))
    return None


def element(annotation: Any) -> Any:
    """The annotation of the elements of a list, tuple or mapping of objects, or None."""
    for option in _options(annotation):
        origin, arguments = typing.get_origin(option), typing.get_args(option)
        if inspect.isclass(origin) and issubclass(origin, collections.abc.Mapping) and len(arguments) == 2:
            return arguments[1]
        if inspect.isclass(origin) and issubclass(origin, collections.abc.Sequence) and arguments:
            return arguments[0]
    return None


def _options(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _is_object(annotation: Any) -> bool:
    return (
        inspect.isclass(annotation)
        and typing.get_origin(annotation) is None
        and not issubclass(annotation, (enum.Enum, Path, str, int, float))
        and plugins.is_allowed(annotation.__module__)
    )


def describe(annotation: Any) -> str:
    """A type as people write it: ``int``, ``float or None``, ``Path (an object)``."""
    names = []
    for option in _options(annotation):
        if option is type(None):
            names.append("null")
        elif typing.get_origin(option) is typing.Literal:
            names.append("one of " + ", ".join(map(str, typing.get_args(option))))
        else:
            generic = typing.get_origin(option) is not None
            names.append(
                re.sub(r"\b(\w+\.)+", "", str(option)) if generic else getattr(option, "__name__", str(option))
            )
    return " or ".join(names)
