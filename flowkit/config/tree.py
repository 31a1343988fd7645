"""The tree of a completed recipe: what a value in it is, by its annotation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flowkit.config.classes import Parameter, Slot, element, parameters, resolve, slot


@dataclass(frozen=True)
class Described:
    """An object that a recipe describes: its class, what of its constructor a recipe may give, and what it gives."""

    place: Slot
    cls: type
    accepted: list[Parameter]
    given: Mapping[str, Any]


def described(value: Any, annotation: Any, where: str) -> Described | None:
    """The object that ``value`` describes, or None where it describes none or its constructor takes anything.

    Raises:
        UserError: a class is not one that recipes may name; ``where`` starts the message.
    """
    place = slot(annotation)
    if place is None or not isinstance(value, Mapping):
        return None
    cls = place.base if place.closed else resolve(place.base, value["class_path"], where)
    accepted = parameters(cls)
    if accepted is None:
        return None
    given = value if place.closed else value.get("init_args", {})  # left out where empty
    return Described(place, cls, list(accepted.values())[place.skip :], given)


def each(value: Any, annotation: Any, where: str, visit: Callable[[Any, Any, str], Any]) -> Any | None:
    """``visit(item, annotation, where)`` of each object in a list or mapping of such, or None where it is none."""
    inner = element(annotation)
    if slot(annotation) is not None or inner is None or slot(inner) is None:
        return None
    if isinstance(value, Mapping):
        return {key: visit(item, inner, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [visit(item, inner, f"{where}[{i}]") for i, item in enumerate(value)]
    return None
