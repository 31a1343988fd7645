"""A small set of shards, and a script that reads or writes one in a process of its own (to be killed)."""

from __future__ import annotations

import sys
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


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]), slowly=0.01)
    else:
        from flowkit.shards.reader import ShardSet
        from flowkit.shards.tar import members_of

        place, cache, limit = sys.argv[2:5]
        shards = ShardSet([place], cache=Path(cache), limit=int(limit), window=1)
        # Each reader in an order of its own.
        for item in np.random.default_rng(int(sys.argv[5])).permutation(COUNT).tolist():
            (data,) = shards.read(np.array([item]))
            assert bytes(members_of(data)["bin"]) == content(item)
        print("all read")
