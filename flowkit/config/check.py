"""Checking a recipe against constructor types before anything is built: every mistake of names is one line for people.

:func:`complete` walks the plain mapping along the annotations: it resolves short class names, refuses unknown keys
and classes, and fills defaults that are objects, so that the result is explicit. The values themselves are checked by
:func:`flowkit.config.typed.typed`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowkit.config.classes import Parameter, Slot, element, import_path, parameters, resolve, slot
from flowkit.errors import UserError, nearest

_SPEC_KEYS = {"class_path", "init_args"}


def complete(value: Any, annotation: Any, where: str) -> Any:
    """``value`` with every class named in full and every object default written out.

    Raises:
        UserError: an unknown key or class, or a missing argument; ``where`` (file and key) starts the message.
    """
    place = slot(annotation)
    if place is not None:
        return _complete_object(value, place, where)
    inner = element(annotation)
    if inner is not None and isinstance(value, Mapping):
        return {key: complete(item, inner, f"{where}.{key}") for key, item in value.items()}
    if inner is not None and isinstance(value, Sequence) and not isinstance(value, str):
        return [complete(item, inner, f"{where}[{i}]") for i, item in enumerate(value)]
    return value


def _complete_object(value: Any, place: Slot, where: str) -> Any:
    if value is None:
        return None
    if isinstance(value, str) and not place.closed:
        value = {"class_path": value}
    if not isinstance(value, Mapping):
        if place.closed:
            raise UserError(f"{where}: expected the arguments of {place.base.__name__} by name, got {value!r}")
        raise UserError(
            f"{where}: expected a {place.base.__name__} (its class, or keys class_path and init_args), got {value!r}"
        )
    if place.closed or not (_SPEC_KEYS & set(value)):
        if (not place.closed and parameters(place.base) is None) or "class_path" in value:
            raise UserError(f"{where}: expected the arguments of {place.base.__name__}, got {dict(value)!r}")
        if not place.closed and getattr(place.base, "__abstractmethods__", None):
            raise UserError(
                f"{where}: give the class of the {place.base.__name__} with class_path; {nearest_class(place.base)}"
            )
        arguments = arguments_of(place.base, value, where, skip=place.skip)
        return arguments if place.closed else {"class_path": import_path(place.base), "init_args": arguments}
    for key in value:
        if key not in _SPEC_KEYS:
            raise UserError(f"{where}: unknown key {key!r} beside class_path; {nearest(str(key), _SPEC_KEYS)}")
    name = value.get("class_path")
    if not isinstance(name, str):
        raise UserError(
            f"{where}.class_path: expected a {place.base.__name__}'s name, got {name!r}; {nearest_class(place.base)}"
        )
    cls = resolve(place.base, name, where)
    arguments = value.get("init_args")
    if not isinstance(arguments, (Mapping, type(None))):
        raise UserError(f"{where}.init_args: expected the arguments of {cls.__name__} by name, got {arguments!r}")
    return {"class_path": import_path(cls), "init_args": arguments_of(cls, arguments or {}, where, skip=place.skip)}


def nearest_class(base: type) -> str:
    """The list of classes that fit ``base``."""
    from flowkit.config.classes import known

    return nearest("", known(base))


def arguments_of(cls: type, given: Mapping[str, Any], where: str, *, skip: int = 0) -> dict[str, Any]:
    """The arguments ``given`` for ``cls``, checked by name and completed; ``skip`` leading ones come from a factory."""
    accepted = parameters(cls)
    if accepted is None:
        return dict(given)
    accepted = dict(list(accepted.items())[skip:])
    for key in given:
        if key not in accepted:
            raise UserError(f"{where}: {cls.__name__} takes no {key!r}; {nearest(str(key), accepted)}")
    given = _written_out(cls, given, where)
    missing = [p.name for p in accepted.values() if p.required and p.name not in given]
    if missing:
        raise UserError(f"{where}: {cls.__name__} needs {', '.join(map(repr, missing))}")
    completed = {}
    for name, parameter in accepted.items():
        if name in given:
            completed[name] = complete(given[name], parameter.annotation, f"{where}.{name}")
        elif slot(parameter.annotation) is not None and parameter.default is not None:
            completed[name] = _complete_default(parameter, where)
    return completed


def _written_out(cls: type, given: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """A class whose sizes lie in another file has a class method ``write_out(given)``, which returns its arguments in
    full: the resolved recipe then stands alone, and no constructor has to open that file."""
    write_out = getattr(cls, "write_out", None)
    if write_out is None:
        return given
    try:
        return write_out(given)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _complete_default(parameter: Parameter, where: str) -> Any:
    place = slot(parameter.annotation)
    assert place is not None
    described = specification(parameter.default)
    return _complete_object(described["init_args"] if place.closed else described, place, f"{where}.{parameter.name}")


def specification(instance: Any) -> dict[str, Any]:
    """An object as class_path and init_args. House rule: constructors store their arguments under the same names."""
    if isinstance(instance, type):  # the default of a factory may be the class itself
        return {"class_path": import_path(instance), "init_args": {}}
    if isinstance(instance, functools.partial):
        cls: Any = instance.func
        values = dict(instance.keywords)
    else:
        cls = type(instance)
        values = {name: getattr(instance, name) for name in parameters(cls) or () if hasattr(instance, name)}
    return {"class_path": import_path(cls), "init_args": {name: _plain(value) for name, value in values.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return specification(value)
