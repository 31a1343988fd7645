"""Every value of a completed recipe as its type, and every default written out.

:func:`typed` walks the tree that :func:`flowkit.config.check.complete` made, along the same annotations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowkit.config.classes import Parameter, describe, element, parameters, resolve, slot
from flowkit.config.values import plain
from flowkit.errors import UserError


def typed(value: Any, annotation: Any, where: str, owner: str = "the recipe") -> Any:
    """``value`` as plain data of the type ``annotation``, with the defaults of all constructors in it.

    Args:
        value: a completed value: classes in full, names checked.
        annotation: what it should be.
        where: file and key, for messages.
        owner: the class whose argument it is, for messages.

    Raises:
        UserError: it does not fit.
    """
    place = slot(annotation)
    if place is not None and isinstance(value, Mapping):
        cls = place.base if place.closed else resolve(place.base, value["class_path"], where)
        accepted = parameters(cls)
        if accepted is not None:
            given = value if place.closed else value["init_args"]
            arguments = _arguments(list(accepted.values())[place.skip :], given, where, cls.__name__)
            if place.closed:
                return arguments
            return {"class_path": value["class_path"], **({"init_args": arguments} if arguments else {})}
    inner = element(annotation)
    if place is None and inner is not None and slot(inner) is not None:
        if isinstance(value, Mapping):
            return {key: typed(item, inner, f"{where}.{key}", owner) for key, item in value.items()}
        if isinstance(value, list):
            return [typed(item, inner, f"{where}.{i}", owner) for i, item in enumerate(value)]
    return _leaf(value, annotation, where, owner)


def _arguments(accepted: list[Parameter], given: Mapping[str, Any], where: str, owner: str) -> dict[str, Any]:
    made = {}
    for parameter in accepted:
        name = parameter.name
        if name in given:
            made[name] = typed(given[name], parameter.annotation, f"{where}.{name}", owner)
        elif not parameter.required:
            made[name] = _default(parameter, f"{where}.{name}", owner)
    return made


def _default(parameter: Parameter, where: str, owner: str) -> Any:
    if parameter.default is None:
        return None
    return _leaf(parameter.default, parameter.annotation, where, owner)


def _leaf(value: Any, annotation: Any, where: str, owner: str) -> Any:
    try:
        return plain(value, annotation)
    except Exception:
        raise UserError(f"{where}: {owner} expects {describe(annotation)}, got {value!r}") from None
