"""The type checker of the tests: beartype, for the first calls of each function in each test.

A training or a solver calls the same functions ten thousand times with the same shapes, and checking them takes longer
than what they do. A function that was checked :data:`ENOUGH` times in a test goes on unchecked until the next test.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from beartype import beartype

#: Calls of a function that are checked in one test.
ENOUGH = 300

_calls: Counter[tuple[str, str]] = Counter()
_unchecked: list[Any] = []


def beartyped(function: Callable[..., Any]) -> Callable[..., Any]:
    """What jaxtyping takes for a type checker: ``function`` has the signature of the one that it stands for."""
    checked = beartype(function)
    key = (function.__module__, function.__qualname__)

    @functools.wraps(checked)
    def counted(*args: Any, **options: Any) -> Any:
        _calls[key] += 1
        if _calls[key] == 2 * ENOUGH:  # a call's arguments are checked, and again with what it returns
            _uncheck(*key)
        return checked(*args, **options)

    return counted


def start() -> None:
    """Check all functions again: a test begins."""
    _calls.clear()
    while _unchecked:
        del _unchecked.pop().__no_type_check__


def _uncheck(module: str, name: str) -> None:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = vars(found).get(part) if hasattr(found, "__dict__") else None  # functions in functions are not found
    found = getattr(found, "fget", None) or getattr(found, "__func__", found)
    while hasattr(found, "__wrapped__"):
        found = found.__wrapped__
    if callable(found):
        found.__no_type_check__ = True  # what typing.no_type_check sets
        _unchecked.append(found)
