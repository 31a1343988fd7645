"""Which items of a set are damaged: every shard is read once, and remembered until it changes."""

from __future__ import annotations

import contextlib
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from flowkit import atomic
from flowkit.errors import UserError
from flowkit.shards.cache import CHECKED
from flowkit.shards.index import Shard, hash_file
from flowkit.shards.reader import ShardSet


def require_all(shards: ShardSet) -> None:
    """See that every shard is there with its size; cheap. What lies at addresses is seen when it is fetched.

    Raises:
        UserError: shards are missing or have another size.
    """
    if shards.places.addresses:
        return
    missing = [shard.name for shard in shards.index.shards if shards.places.find(shard.name) is None]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise UserError(
            f"{len(missing)} of the {len(shards.index.shards)} shards are missing in {shards.places}: {shown}; copy "
            "them there, name the folder that has them too in data.init_args.places, or leave them out with "
            "data.init_args.skip_damaged true"
        )
    for shard in shards.index.shards:
        path = shards.locate(shard)
        size = path.stat().st_size
        if size != shard.size:
            raise UserError(
                f"{str(path)!r} has {size} bytes where its index says {shard.size}: it was cut short or changed since "
                "it was written; copy it again, or leave out what is damaged with data.init_args.skip_damaged true"
            )


def damaged_items(shards: ShardSet) -> np.ndarray:
    """Numbers (n,) of the items that are missing or not what was written.

    A shard that was whole is not read again while its size and time of change stay. What lies at addresses is fetched,
    and left out whole where that fails.
    """
    from tqdm import tqdm

    note = shards.cache.folder / CHECKED
    whole: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        whole = json.loads(note.read_text())
    found: list[np.ndarray] = []
    new = False
    for shard in tqdm(shards.index.shards, desc="checking shards", unit="shard", mininterval=1.0, disable=None):
        everything = np.arange(shard.first, shard.first + shard.items)
        try:
            path = shards.locate(shard)
            about = path.stat()
            stamp = [str(path), about.st_size, about.st_mtime_ns]
            if whole.get(shard.name) == stamp:
                continue
            bad = everything[_damaged(shards, shard, path)]
        except (UserError, OSError):
            found.append(everything)
            continue
        if len(bad):
            found.append(bad)
        elif shards.cache.folder not in path.parents:
            whole[shard.name], new = stamp, True
    if new:
        with contextlib.suppress(OSError):
            atomic.write_json(note, whole)
    return np.concatenate([np.zeros(0, dtype=np.int64), *found])


def _damaged(shards: ShardSet, shard: Shard, path: Path) -> np.ndarray:
    """(items,) bool; with the right hash none is."""
    bad = np.zeros(shard.items, dtype=bool)
    if path.stat().st_size == shard.size and hash_file(path) == shard.sha256:
        return bad
    about = shards.index.items[shard.first : shard.first + shard.items]
    with path.open("rb") as file:
        for row, (offset, size, crc) in enumerate(about.tolist()):
            file.seek(offset)
            bad[row] = zlib.crc32(file.read(size)) != crc
    return bad
