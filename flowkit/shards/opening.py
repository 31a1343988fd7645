"""Opening a set for training: what readers of all domains do alike."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flowkit.caching import cache_root
from flowkit.errors import UserError, writing
from flowkit.shards.check import damaged_items, require_all
from flowkit.shards.reader import ShardSet


@dataclass(frozen=True)
class ShardOptions:
    """How shards are read.

    Args:
        window: shards that training mixes at a time; 0 mixes all, as for data that lie in memory.
        skip_damaged: read every shard once, and leave out what is missing or damaged; else that is an error.
        cache: folder for what is fetched; empty means ``$FLOWKIT_CACHE`` or the user's cache folder.
        cache_gib: how much it may hold, GiB.
    """

    window: int = 16
    skip_damaged: bool = False
    cache: str = ""
    cache_gib: float = 50.0


@dataclass(frozen=True)
class Opened:
    """A set that is ready: the shards, and what is left out of it.

    Args:
        shards: the set.
        damaged: (items,) whether an item is missing or damaged; None where everything is there.
    """

    shards: ShardSet
    damaged: np.ndarray | None

    @property
    def skipped(self) -> int:
        """Items that are left out."""
        return 0 if self.damaged is None else int(self.damaged.sum())


def open_shards(places: Sequence[str], options: ShardOptions, *, kind: str) -> Opened:
    """Open and check a set.

    Args:
        places: see :class:`~flowkit.shards.places.Places`.
        options: how it is read.
        kind: what the reader understands.

    Raises:
        UserError: it is not there or not whole, of another kind, or an option cannot be.
    """
    if options.window < 0:
        raise UserError(f"data.init_args.window is {options.window}: it is a number of shards, or 0 for all")
    if not 0 < options.cache_gib < math.inf:
        raise UserError(f"data.init_args.cache_gib is {options.cache_gib:g}: it is positive, in GiB")
    cache = cache_root(options.cache) / "shards"
    with writing(cache, "fetched shards to "):
        limit = int(options.cache_gib * 2**30)
        shards = ShardSet(places, cache=cache, limit=limit, window=options.window, lenient=options.skip_damaged)
    if shards.index.kind != kind:
        raise UserError(
            f"the shards in {shards.places} hold {shards.index.kind}, the recipe's source reads {kind}: name another "
            "class in data.class_path, or another place"
        )
    if not options.skip_damaged:
        require_all(shards)
        return Opened(shards, None)
    items = damaged_items(shards)
    if not len(items):
        return Opened(shards, None)
    shards.left_out = f"{len(items)} ({zlib.crc32(items.astype('<i8').tobytes()):08x})"
    damaged = np.zeros(len(shards.index.items), dtype=bool)
    damaged[items] = True
    return Opened(shards, damaged)
