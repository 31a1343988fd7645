"""Locks between processes that the system gives back when their holder dies, however it dies."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file ``path`` (made where it is missing, never removed).

    Threads exclude each other as processes do. Yields whether the lock is held: always, unless ``wait`` is false and
    somebody else holds it.
    """
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except OSError as error:
            if wait or error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            held = False
        yield held
    finally:
        os.close(handle)
