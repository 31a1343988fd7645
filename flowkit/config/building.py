"""From the plain data of a checked recipe to its objects, along the annotations of constructors."""

from __future__ import annotations

import functools
from typing import Any

from flowkit.config.tree import described, each
from flowkit.config.values import as_argument


def build(value: Any, annotation: Any, where: str) -> Any:
    """The object that ``value`` describes: what lies inside it first, in the order of the arguments.

    Args:
        value: as :func:`flowkit.config.typed.typed` wrote it.
        annotation: what it is.
        where: key, for messages.

    Raises:
        UserError: a class is not one that recipes may name.
        Exception: whatever a constructor raises.
    """
    found = described(value, annotation, where)
    if found is not None:
        arguments = {
            parameter.name: build(found.given[parameter.name], parameter.annotation, f"{where}.{parameter.name}")
            for parameter in found.accepted
            if parameter.name in found.given
        }
        return functools.partial(found.cls, **arguments) if found.place.factory else found.cls(**arguments)
    items = each(value, annotation, where, build)
    return as_argument(value, annotation) if items is None else items
