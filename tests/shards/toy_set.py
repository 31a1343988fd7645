"""A small set of shards, and what reads or writes one in a process of its own (to be killed)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flowkit.shards.records import Record, Records
from flowkit.shards.writer import write_shards

COUNT = 40
SIZE = 40 * 1024


def content(number: int) -> bytes:
    """Bytes of a record: a function of its number."""
    return np.random.default_rng(number).bytes(3000 + 97 * (number % 13))


def toy_records(count: int = COUNT, *, slowly: float = 0.0, other: int = 0) -> Records:
    def read(number: int) -> Record:
        if slowly:
            import time

            time.sleep(slowly)
        return Record({"bin": content(number + other), "json": b'{"number": %d}' % number})

    tables = {"number": np.arange(count) + other}
    return Records(kind="toy", count=count, read=read, items=count, tables=tables, manifest={"words": ["a", "ü"]})


def write(folder: Path, count: int = COUNT, **options: object) -> list[str]:
    index = write_shards(toy_records(count, **options), [folder], size=SIZE, shown=False)  # type: ignore[arg-type]
    return [shard.name for shard in index.shards]


def write_slowly(folder: str) -> None:
    write(Path(folder), slowly=0.01)


def read_all(place: str, cache: str, order: list[int]) -> None:
    """All items one after the other."""
    from flowkit.shards.reader import ShardSet
    from flowkit.shards.tar import members_of

    shards = ShardSet([place], cache=Path(cache), limit=1 << 30, window=1)
    for item in order:
        (data,) = shards.read(np.array([item]))
        assert bytes(members_of(data)["bin"]) == content(item)
    print("all read")
