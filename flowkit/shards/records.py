"""What a data source hands over to be written as shards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flowkit.data import DataSource


@dataclass(frozen=True)
class Record:
    """A run of members with one key in a shard: what webdataset calls a sample.

    Args:
        members: ending of a member's name (``mel.npy``) -> its bytes.
        items: what the record is addressed by: 1 for the run as a whole, headers of the tar included; else the last
            member, in the order of the endings, ends with so many pieces of equal size (frames of a film).
        piece: bytes of such a piece; 0 for the run as a whole.
    """

    members: Mapping[str, bytes]
    items: int = 1
    piece: int = 0


@dataclass(frozen=True)
class Records:
    """A data set as records in a fixed order, read one at a time.

    Args:
        kind: which domain's reader understands them: ``speech``, ``video``.
        count: how many.
        read: record by number, a pure function of it.
        items: of all records together.
        tables: name -> array in the index, read through a memory map; what training must know without opening a shard.
        manifest: further contents of the index (JSON values): statistics, names.
    """

    kind: str
    count: int
    read: Callable[[int], Record]
    items: int
    tables: Mapping[str, np.ndarray] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)


class Sharding(DataSource, ABC):
    """A source that can be written as shards."""

    @abstractmethod
    def records(self) -> Records:
        """The prepared data, all splits.

        Raises:
            UserError: they cannot be written so.
        """

    @abstractmethod
    def shards_source(self, places: list[str], **options: Any) -> DataSource:
        """The source that reads in ``places`` what was written there; ``options`` are those of
        :class:`~flowkit.shards.opening.ShardOptions`.
        """
