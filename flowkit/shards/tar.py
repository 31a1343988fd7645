"""Where things lie in a tar file of shards."""

from __future__ import annotations

import mmap
import tarfile
import zlib
from pathlib import Path

import numpy as np

from flowkit.shards.index import ITEM

#: Tar files count in blocks of so many bytes.
BLOCK = 512


def items_of(path: Path, pieces: list[tuple[int, int]]) -> np.ndarray:
    """Place, size and check sum of the items of a shard, read back from it."""
    runs: dict[str, list[tarfile.TarInfo]] = {}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            runs.setdefault(member.name.partition(".")[0], []).append(member)
    found = np.empty(sum(count for count, _ in pieces), dtype=ITEM)
    row = 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for members, (count, piece) in zip(runs.values(), pieces, strict=True):
            end = members[-1].offset_data + members[-1].size
            size = piece or end - members[0].offset
            for start in range(end - count * size, end, size):
                found[row] = (start, size, zlib.crc32(content[start : start + size]))
                row += 1
    return found


def members_of(data: memoryview) -> dict[str, memoryview]:
    """The members of a record that is one item: ending of the name -> content.

    Raises:
        tarfile.TarError: it is no part of a tar file.
    """
    found: dict[str, memoryview] = {}
    place = 0
    while place < len(data):
        about = tarfile.TarInfo.frombuf(bytes(data[place : place + BLOCK]), "ascii", "strict")
        found[about.name.partition(".")[2]] = data[place + BLOCK : place + BLOCK + about.size]
        place += BLOCK - (-about.size // BLOCK) * BLOCK
    return found
