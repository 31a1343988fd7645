"""Where things lie in a tar file of shards."""

from __future__ import annotations

import io
import mmap
import tarfile
import zlib
from functools import lru_cache
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

    Only names and sizes are looked at: the check sum of the item told that the headers are those that were written.
    """
    found: dict[str, memoryview] = {}
    place = 0
    while place < len(data):
        header = bytes(data[place : place + BLOCK])
        name, size = header[:100].rstrip(b"\0").decode(), int(header[124:135], 8)
        found[name.partition(".")[2]] = data[place + BLOCK : place + BLOCK + size]
        place += BLOCK - (-size // BLOCK) * BLOCK
    return found


def array_of(member: memoryview) -> np.ndarray:
    """The array in an ``.npy`` member, without a copy."""
    length = 10 + int.from_bytes(member[8:10], "little")
    shape, fortran, dtype = _npy_header(bytes(member[:length]))
    return np.frombuffer(member, dtype, offset=length).reshape(shape, order="F" if fortran else "C")


@lru_cache(maxsize=8192)
def _npy_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Of version 1; arrays of one shape share it, and parsing costs more than reading a short array."""
    return np.lib.format.read_array_header_1_0(io.BytesIO(header[8:]))
