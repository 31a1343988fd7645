"""A bounded folder of fetched shards that any number of processes share.

A shard is fetched by whoever holds its lock, under a temporary name, and renamed when size and hash are right: nobody
ever reads a half-written one, and nobody fetches what another has. The system gives locks back when a process is
killed; what it left half-written is removed by the next one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from flowkit import atomic
from flowkit.errors import UserError
from flowkit.shards.index import Shard
from flowkit.shards.locks import locked

_BLOCK = 1 << 20
_WRITING = ".writing"
#: Of a set: which of its shards were whole when they were checked.
CHECKED = "checked.json"


class ShardCache:
    """Fetched shards of one set.

    Args:
        root: of the cache; sets share it, and its limit.
        digest: of the set's index.
        limit: bytes that all fetched shards under ``root`` may take.
    """

    def __init__(self, root: Path, digest: str, limit: int) -> None:
        self.root, self.folder, self.limit = root, root / digest, limit

    def find(self, shard: Shard) -> Path | None:
        """A fetched shard, marked as used just now; None where it is not there."""
        path = self.folder / shard.name
        try:
            os.utime(path)
        except OSError:
            return None
        return path

    def drop(self, shard: Shard) -> None:
        """Remove a shard that turned out to be damaged."""
        with locked(self._lock(shard.name)):
            (self.folder / shard.name).unlink(missing_ok=True)

    def _lock(self, name: str) -> Path:
        return self.folder / f".{name}.lock"

    def get(self, shard: Shard, open_stream: Callable[[], IO[bytes]], where: str) -> Path:
        """The fetched shard; fetches it where neither this nor another process has.

        Args:
            shard: which.
            open_stream: opens it where it comes from.
            where: that place, for errors.

        Raises:
            UserError: it cannot be fetched, arrives damaged, or the disk is full.
        """
        found = self.find(shard)
        if found is not None:
            return found
        try:
            with locked(self._lock(shard.name)):
                return self.find(shard) or self._fetch(shard, open_stream, where)
        except OSError as error:
            raise UserError(
                f"cannot keep {shard.name} in the cache {str(self.root)!r}: {error.strerror or error}; make room, "
                "lower data.init_args.cache_gib, or name another folder in data.init_args.cache"
            ) from error

    def _fetch(self, shard: Shard, open_stream: Callable[[], IO[bytes]], where: str) -> Path:
        path = self.folder / shard.name
        # The lock is ours, so whoever wrote this is dead.
        temporary = self.folder / f".{shard.name}{_WRITING}"
        temporary.unlink(missing_ok=True)
        try:
            with temporary.open("wb") as file:
                with locked(self.root / ".lock"):
                    self._make_room(shard.size)
                    # Others see at once how much this one will take, and a full disk shows now.
                    _reserve(file, shard.size)
                size, digest = _copy(open_stream, file, shard.size, where)
            if (size, digest) != (shard.size, shard.sha256):
                fault = f"it has {size} bytes instead of {shard.size}" if size != shard.size else "its content differs"
                raise UserError(
                    f"{where} is not the shard that the index describes ({fault}): it was damaged or changed since; "
                    "copy it there again, or leave such ones out with data.init_args.skip_damaged true"
                )
            atomic.sync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return path

    def _make_room(self, size: int) -> None:
        """Remove what was not used for longest. Who has such a shard open reads on."""
        kept: list[tuple[float, int, Path]] = []
        total = size
        for path in self.root.glob("*/*"):
            is_writing = path.name.endswith(_WRITING)
            if not is_writing and not path.name.endswith(".tar"):
                continue
            with contextlib.suppress(FileNotFoundError):
                if is_writing and self._removed(path):
                    continue
                about = path.stat()
                total += about.st_size
                if not is_writing:
                    kept.append((about.st_mtime, about.st_size, path))
        for _, bytes_, path in sorted(kept):
            if total <= self.limit:
                return
            path.unlink(missing_ok=True)
            total -= bytes_

    @staticmethod
    def _removed(temporary: Path) -> bool:
        """Remove a temporary file that nobody writes any more (its lock is free, and ours until it is gone); whether
        that was so. Our own is held by us."""
        name = temporary.name.removesuffix(_WRITING)
        with locked(temporary.with_name(f"{name}.lock"), wait=False) as free:
            if free:
                temporary.unlink()
            return free


def _reserve(file: IO[bytes], size: int) -> None:
    """Give a new file its size; raises ``OSError`` where the disk has no room (macOS tells only as it is written)."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)


def _copy(open_stream: Callable[[], IO[bytes]], file: IO[bytes], most: int, where: str) -> tuple[int, str]:
    """Copy a stream; bytes and SHA-256 of what came. What cannot be opened or read is an error for people."""
    state, size = hashlib.sha256(), 0
    try:
        stream = open_stream()
    except OSError as error:
        raise UserError(f"cannot open {where} ({error}): {_WAY_OUT}") from error
    try:
        while size <= most:
            try:
                block = stream.read(_BLOCK)
            except OSError as error:
                raise UserError(f"cannot fetch {where} ({error}): {_WAY_OUT}") from error
            if not block:
                break
            state.update(block)
            size += len(block)
            if size <= most:
                file.write(block)
        file.flush()
    finally:
        try:
            stream.close()
        except OSError as error:
            # A program behind a pipe tells only at its end that it failed.
            if size < most:
                raise UserError(f"cannot fetch {where} ({error}): {_WAY_OUT}") from error
    return size, state.hexdigest()


_WAY_OUT = (
    "see that the place is right and within reach; training goes on with --resume last, and "
    "data.init_args.skip_damaged true leaves out what is not there"
)
