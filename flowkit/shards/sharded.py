"""Any source that can be written as shards, written at the first ``prepare`` and read from there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from flowkit.caching import cache_root
from flowkit.data import DataSource, Samples, Split
from flowkit.errors import UserError
from flowkit.shards.records import Sharding
from flowkit.shards.writer import fingerprint, write_shards


class Sharded(DataSource):
    """Another source by way of shards: the same samples, read with little memory.

    To make shards once and carry them elsewhere, use ``flowkit data shard``, and ``SpeechShards`` or ``VideoShards``.

    Args:
        source: of speech or video.
        places: folders for the shards, on as many disks as there are; empty: one in the cache.
        mib: largest size of a shard.
        window: shards that training mixes at a time; 0: all.
        cache: where the shards go without ``places``; empty means ``$FLOWKIT_CACHE`` or the user's cache folder.
    """

    def __init__(
        self, source: DataSource, *, places: list[str] | None = None, mib: float = 256.0, window: int = 16,
        cache: str = "",
    ) -> None:  # fmt: skip
        self.source, self.places, self.mib, self.window, self.cache = source, places or [], mib, window, cache

    @cached_property
    def shards(self) -> DataSource:
        """The source that reads the shards; writes them where that was not done.

        Raises:
            UserError: they cannot be written.
        """
        source = self.source
        if not isinstance(source, Sharding):
            raise UserError(f"{type(source).__name__} cannot be written as shards: sources of speech and video can")
        if not 0 < self.mib < math.inf:
            raise UserError(f"data.init_args.mib is {self.mib:g}: it is positive, in MiB")
        source.prepare()
        records, size = source.records(), int(self.mib * 2**20)
        root = cache_root(self.cache)
        places = self.places or [str(root / "sharded" / fingerprint(records, size)[:12])]
        write_shards(records, [Path(place).expanduser() for place in places], size=size)
        return source.shards_source(places, window=self.window, cache=self.cache)

    def prepare(self) -> None:
        """Write the shards; returns at once when that was done."""
        self.shards.prepare()

    def split(self, name: Split) -> Samples:
        """That of the shards."""
        return self.shards.split(name)

    def statistics(self) -> Mapping[str, Any]:
        """Those of the shards."""
        return self.shards.statistics()
