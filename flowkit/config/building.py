"""From the plain data of a checked recipe to its objects, along the annotations of constructors."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from flowkit.config.classes import element, parameters, resolve, slot
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
    place = slot(annotation)
    if place is not None and isinstance(value, Mapping):
        cls = place.base if place.closed else resolve(place.base, value["class_path"], where)
        accepted = parameters(cls)
        if accepted is not None:
            given = value if place.closed else value.get("init_args", {})
            arguments = {
                parameter.name: build(given[parameter.name], parameter.annotation, f"{where}.{parameter.name}")
                for parameter in list(accepted.values())[place.skip :]
                if parameter.name in given
            }
            return functools.partial(cls, **arguments) if place.factory else cls(**arguments)
    inner = element(annotation)
    if place is None and inner is not None and slot(inner) is not None:
        if isinstance(value, Mapping):
            return {key: build(item, inner, f"{where}.{key}") for key, item in value.items()}
        if isinstance(value, list):
            return [build(item, inner, f"{where}[{i}]") for i, item in enumerate(value)]
    return as_argument(value, annotation)
