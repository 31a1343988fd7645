"""Errors for people: a mistake of the user gets one clear line and exit code 2, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """A user's mistake. The message is one line that names the file, key or value and the way out."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence with the known name most like ``name`` and the whole list: ``did you mean 'Euler'? Known: ...``."""
    names = sorted(known)
    scored = [(_likeness(name.lower(), known_name.lower()), known_name) for known_name in names]
    likeness, guess = max(scored, key=lambda pair: pair[0], default=(0.0, ""))
    listing = "known: " + ", ".join(names) if names else "none is known"
    return f"did you mean {guess!r}? ({listing})" if likeness >= 0.5 else listing


def _likeness(name: str, known: str) -> float:
    """1 for equal names. A name cut short, or without the folder before it, is nearer than another of its length."""
    parts = [(known, 1.0)]
    if 4 <= len(name) < len(known):
        parts += [(known[: len(name)], 0.98), (known[-len(name) :], 0.97)]
    return max(weight * difflib.SequenceMatcher(None, name, part).ratio() for part, weight in parts)


@contextmanager
def writing(path: Path, what: str = "") -> Iterator[None]:
    """Tell why ``path`` cannot be written (no such folder, no right, disk full): an ``OSError`` becomes a
    :class:`UserError`. ``what`` names the content: ``"prepared data to "``."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {what}{path}: {error.strerror or error}") from error
