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
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5) or difflib.get_close_matches(
        name.lower(), [n.lower() for n in names], n=1, cutoff=0.5
    )
    guess = next((n for n in names if close and n.lower() == close[0].lower()), None)
    listing = "known: " + ", ".join(names) if names else "none is known"
    return f"did you mean {guess!r}? ({listing})" if guess else listing


@contextmanager
def writing(path: Path, what: str = "") -> Iterator[None]:
    """Tell why ``path`` cannot be written (no such folder, no right, disk full): an ``OSError`` becomes a
    :class:`UserError`. ``what`` names the content: ``"prepared data to "``."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {what}{path}: {error.strerror or error}") from error
