"""The index of a set of shards: what is where, and what training must know without opening a shard.

A set is a number of tar files ``shard-000000.tar`` ... in webdataset's layout and a folder ``index`` with
``index.json`` (shards with sizes and hashes, the manifest, hashes of the other files), ``items.npy`` (place, size and
check sum of every item, in the order of the shards) and a ``.npy`` for each table. Arrays are memory-mapped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.errors import UserError

#: Raised when the layout changes.
FORMAT = 1
FOLDER = "index"
#: Of an item: first byte in its shard, bytes, CRC-32.
ITEM = np.dtype([("offset", "<i8"), ("size", "<i4"), ("crc", "<u4")])
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Shard:
    """One tar file: its name, bytes, SHA-256, the number of its first item and how many it holds."""

    name: str
    size: int
    sha256: str
    first: int
    items: int


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
    return state.hexdigest()


class Index:
    """An index on this machine.

    Args:
        folder: with ``index.json``.

    Raises:
        UserError: it is missing, damaged or of another format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            text = (folder / "index.json").read_bytes()
            self.content: dict[str, Any] = json.loads(text)
            if self.content["format"] != FORMAT:
                raise UserError(
                    f"the shards' index in {str(folder)!r} has format {self.content['format']}, this version reads "
                    f"{FORMAT}: write the shards again with flowkit data shard"
                )
            self.shards = [Shard(**entry) for entry in self.content["shards"]]
            # An index may come from a stranger, and what it names is written to the cache.
            names = [(shard.name, ".tar") for shard in self.shards] + [(name, ".npy") for name in self.content["files"]]
            for name, ending in names:
                if Path(name).name != name or not name.endswith(ending):
                    raise ValueError(f"{name!r} is no name of a file *{ending}")
            self.kind: str = self.content["kind"]
            self.manifest: dict[str, Any] = self.content["manifest"]
            for name, (size, _) in self.content["files"].items():
                found = (folder / name).stat().st_size
                if found != size:
                    raise ValueError(f"{name} has {found} bytes instead of {size}")
            self.items = np.asarray(np.load(folder / "items.npy", mmap_mode="r"))
            if self.items.dtype != ITEM or len(self.items) != sum(shard.items for shard in self.shards):
                raise ValueError("items.npy does not fit the shards")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"the shards' index in {str(folder)!r} cannot be read ({error}): copy the folder again from where the "
                "shards were written, or write them again with flowkit data shard"
            ) from error
        #: Names the set: another content, another digest.
        self.digest = hashlib.sha256(text).hexdigest()[:16]

    @cached_property
    def firsts(self) -> np.ndarray:
        """(shards,) number of each shard's first item."""
        return np.array([shard.first for shard in self.shards], dtype=np.int64)

    def shard_of(self, items: np.ndarray) -> np.ndarray:
        """Numbers of the shards in which items lie."""
        return np.searchsorted(self.firsts, items, side="right") - 1

    def table(self, name: str) -> np.ndarray:
        """One table, memory-mapped."""
        return np.asarray(np.load(self.folder / f"{name}.npy", mmap_mode="r"))

    @property
    def tables(self) -> list[str]:
        """Names of the tables."""
        return [name.removesuffix(".npy") for name in self.content["files"] if name != "items.npy"]


def write_index(
    folder: Path, *, kind: str, shards: list[Shard], items: list[np.ndarray], tables: Mapping[str, np.ndarray],
    manifest: Mapping[str, Any], about: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write the files of an index into an empty folder.

    Args:
        folder: the empty one.
        kind: see :class:`~flowkit.shards.records.Records`.
        shards: in order.
        items: of each shard, :data:`ITEM`.
        tables: see :class:`~flowkit.shards.records.Records`.
        manifest: the same.
        about: where the set comes from (JSON values).
    """
    total = sum(map(len, items))
    # Through a map: the items of a large set need not be in memory twice.
    mapped = np.lib.format.open_memmap(folder / "items.npy", mode="w+", dtype=ITEM, shape=(total,))
    first = 0
    for part in items:
        mapped[first : first + len(part)] = part
        first += len(part)
    mapped.flush()
    del mapped
    for name, table in tables.items():
        np.save(folder / f"{name}.npy", table, allow_pickle=False)
    files = {path.name: [path.stat().st_size, hash_file(path)] for path in sorted(folder.glob("*.npy"))}
    content = {
        "format": FORMAT, "kind": kind, "about": dict(about), "bytes": sum(shard.size for shard in shards),
        "shards": [asdict(shard) for shard in shards], "files": files, "manifest": dict(manifest),
    }  # fmt: skip
    (folder / "index.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
