"""One value of a recipe and its annotation: as plain data and as the object that a constructor takes.

jsonargparse reads a value at a time. Handing it a whole recipe gives the same and takes ten times as long, for it
parses the arguments of each class again at every level above.
"""

from __future__ import annotations

import copy
import functools
import warnings
from typing import Any

import yaml
from jsonargparse import ArgumentParser

_SCALARS = (bool, int, float, str, type(None))


def plain(value: Any, annotation: Any) -> Any:
    """``value`` as plain data of the type ``annotation``: 1 becomes 1.0 where a float is meant.

    Raises:
        Exception: it does not fit, or cannot be written down.
    """
    return _read(value, annotation, True)


def as_argument(value: Any, annotation: Any) -> Any:
    """Plain data as what a constructor takes: a path, a tuple, an enumeration's member.

    Raises:
        Exception: it does not fit.
    """
    return _read(value, annotation, False)


def _read(value: Any, annotation: Any, as_plain: bool) -> Any:
    read = _remembered if isinstance(value, _SCALARS) and _hashable(annotation) else _parse
    return copy.deepcopy(read(value, annotation, as_plain))  # "[1]" may have become a list


def _hashable(annotation: Any) -> bool:
    """False for some annotations with metadata."""
    try:
        hash(annotation)
    except TypeError:
        return False
    return True


def _parse(value: Any, annotation: Any, as_plain: bool) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=annotation)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # an object that cannot be written down must not pass silently
        found = parser.parse_object({"value": value})
        if not as_plain:
            return parser.instantiate(found)["value"]
        return yaml.safe_load(parser.dump(found, skip_unset=False, skip_validation=True))["value"]


_remembered = functools.lru_cache(maxsize=8192, typed=True)(_parse)  # 1, 1.0 and True are different values
