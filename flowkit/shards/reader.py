"""Items of a set of shards by number, each checked as it is read; memory holds what was asked for and nothing else."""

from __future__ import annotations

import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

import numpy as np

from flowkit.errors import UserError
from flowkit.shards.cache import CHECKED, ShardCache
from flowkit.shards.index import Index, Shard
from flowkit.shards.places import Places

_SKIP = "leave out what is damaged with data.init_args.skip_damaged true"
_AGAIN = f"copy it again from where it is whole, or {_SKIP}; training goes on with --resume last"


class ShardSet:
    """A set of shards.

    Args:
        places: where its files are, see :class:`~flowkit.shards.places.Places`.
        cache: folder for what is fetched from addresses.
        limit: bytes that fetched shards may take there.
        window: shards that training mixes; as many, and half as many again, stay open.
        lenient: read what is whole of a shard that is too short.

    Raises:
        UserError: there is no index, or the cache is too small for the window.
    """

    def __init__(
        self, places: Sequence[str], *, cache: Path, limit: int, window: int, lenient: bool = False
    ) -> None:  # fmt: skip
        self.places, self.window, self.lenient = Places(places), window, lenient
        #: Number and check sum of the items that are left out, for :meth:`about`.
        self.left_out = ""
        self._arguments = (list(places), cache, limit, window, lenient)
        self.index: Index = self.places.index(cache)
        self.cache = ShardCache(cache, self.index.digest, limit)
        # Some more than the window, for what is read ahead and for clips that reach into the next shard.
        self._most = window + window // 2 + 2
        largest = max((shard.size for shard in self.index.shards), default=0)
        needed = largest * min(self._most, len(self.index.shards))
        if self.places.addresses and limit < needed:
            raise UserError(
                f"data.init_args.cache_gib is {limit / 2**30:g}: {min(self._most, len(self.index.shards))} shards of "
                f"up to {largest / 2**20:.0f} MiB are in use at a time, so {needed / 2**30:.2g} are needed, or a "
                "smaller data.init_args.window"
            )
        self._open: OrderedDict[int, tuple[IO[bytes], bool]] = OrderedDict()
        self._lock = threading.Lock()
        self._ahead: SimpleQueue[Shard] | None = None
        self._announced: OrderedDict[int, None] = OrderedDict()

    @property
    def far(self) -> bool:
        """Whether shards are fetched, so that :meth:`expect` is of use."""
        return bool(self.places.addresses)

    def about(self) -> dict[str, Any]:
        """What decides the order of training beside the number of samples."""
        return {"shards": self.index.digest, "window": self.window, "left out": self.left_out}

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, self._arguments

    def read(self, items: np.ndarray) -> list[memoryview]:
        """The bytes of items (n,), in their order; neighbours in a shard are read at once.

        Raises:
            UserError: a shard is missing, cannot be fetched, or is not what the index describes.
        """
        about = self.index.items[items]
        shards = self.index.shard_of(items)
        ends = about["offset"] + about["size"]
        joined = (shards[1:] == shards[:-1]) & (about["offset"][1:] == ends[:-1])
        cuts = [0, *(np.flatnonzero(~joined) + 1).tolist(), len(items)]
        found: list[memoryview] = []
        for first, last in pairwise(cuts):
            if first < last:
                found += self._read_run(int(shards[first]), items[first:last], about[first:last])
        return found

    def _read_run(self, number: int, items: np.ndarray, about: np.ndarray, *, retry: bool = True) -> list[memoryview]:
        start = int(about["offset"][0])
        data = memoryview(np.empty(int(about["size"].sum()), np.uint8))  # pyright: ignore[reportArgumentType]
        file, cached = self._file(number)
        got = 0
        while got < len(data):
            try:
                step = os.preadv(file.fileno(), [data[got:]], start + got)
            except OSError as error:
                raise UserError(f"cannot read {file.name!r}: {error.strerror or error}; {_AGAIN}") from error
            if step == 0:
                break
            got += step
        parts: list[memoryview] = []
        place = 0
        for item, size, crc in zip(items.tolist(), about["size"].tolist(), about["crc"].tolist(), strict=True):
            part = data[place : place + size]
            if got < place + size or zlib.crc32(part) != crc:
                shard = self.index.shards[number]
                self._close(number)
                if cached and retry:
                    # The disk of the cache may have failed; the place may still have it whole.
                    self.cache.drop(shard)
                    return self._read_run(number, items, about, retry=False)
                # What was whole once is to be checked again.
                (self.cache.folder / CHECKED).unlink(missing_ok=True)
                raise UserError(
                    f"item {item - shard.first} of {file.name!r} is not what was written there: the shard was damaged "
                    f"or changed since; {_AGAIN}"
                )
            parts.append(part)
            place += size
        return parts

    # --- open files -------------------------------------------------------------------------------------------------

    def _file(self, number: int) -> tuple[IO[bytes], bool]:
        """The open shard, and whether it is a fetched one. Other threads may close it: the object stays usable for who
        holds it, and is closed when nobody does.
        """
        with self._lock:
            found = self._open.get(number)
            if found is not None:
                self._open.move_to_end(number)
        if found is None:
            file = self._opened(number)
            found = file, self.cache.folder in Path(file.name).parents
            with self._lock:
                self._open[number] = found
                if len(self._open) > self._most:
                    self._open.popitem(last=False)
        return found

    def _close(self, number: int) -> None:
        with self._lock:
            self._open.pop(number, None)

    def _opened(self, number: int) -> IO[bytes]:
        shard = self.index.shards[number]
        while True:
            path = self.locate(shard)
            try:
                file = path.open("rb", buffering=0)
                break
            except FileNotFoundError:
                # Another process made room in the cache just now.
                continue
            except OSError as error:
                raise UserError(f"cannot read {str(path)!r}: {error.strerror or error}; {_AGAIN}") from error
        found = os.fstat(file.fileno()).st_size
        if found != shard.size and not self.lenient:
            raise UserError(
                f"{str(path)!r} has {found} bytes where its index says {shard.size}: it was cut short or changed since "
                f"it was written; {_AGAIN}"
            )
        return file

    def locate(self, shard: Shard) -> Path:
        """A shard on this machine; fetched from the first address that has it whole where no folder has it.

        Raises:
            UserError: no place has it.
        """
        found = self.places.find(shard.name) or (self.cache.find(shard) if self.places.addresses else None)
        if found is not None:
            return found
        fault: UserError | None = None
        for place in self.places.addresses:
            try:
                return self.cache.get(
                    shard, partial(self.places.open, place, shard.name), self.places.address(place, shard.name)
                )
            except UserError as error:
                fault = fault or error
        raise fault or UserError(f"the shard {shard.name} is missing: it is in none of {self.places}; {_AGAIN}")

    # --- ahead ------------------------------------------------------------------------------------------------------

    def expect(self, items: np.ndarray) -> None:
        """Fetch the shards of items that will be read soon, meanwhile; errors wait until they are read."""
        if not self.places.addresses:
            return
        with self._lock:
            for number in np.unique(self.index.shard_of(items)).tolist():
                if number in self._announced:
                    self._announced.move_to_end(number)
                    continue
                self._announced[number] = None
                if len(self._announced) > self._most:
                    self._announced.popitem(last=False)
                if self._ahead is None:
                    self._ahead = SimpleQueue()
                    # A daemon: the end of the program does not wait for what nobody will read.
                    threading.Thread(target=self._fetch_announced, args=(self._ahead,), daemon=True).start()
                self._ahead.put(self.index.shards[number])

    def _fetch_announced(self, queue: SimpleQueue[Shard]) -> None:
        while True:
            with suppress(UserError, OSError):
                self.locate(queue.get())


def _again(places: list[str], cache: Path, limit: int, window: int, lenient: bool) -> ShardSet:
    return ShardSet(places, cache=cache, limit=limit, window=window, lenient=lenient)
