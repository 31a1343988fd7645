"""Every value of a completed recipe as its type, and every default written out.

:func:`typed` walks the tree that :func:`flowkit.config.check.complete` made, along the same annotations.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from flowkit.config.classes import Parameter, describe
from flowkit.config.tree import described, each
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
    found = described(value, annotation, where)
    if found is not None:
        arguments = _arguments(found.accepted, found.given, where, found.cls.__name__)
        if found.place.closed:
            return arguments
        return {"class_path": value["class_path"], **({"init_args": arguments} if arguments else {})}
    items = each(value, annotation, where, functools.partial(typed, owner=owner))
    return _leaf(value, annotation, where, owner) if items is None else items


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
