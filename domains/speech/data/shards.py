"""Speech in shards: sets that are larger than the memory and than one disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from domains.speech.data.packed import FORMAT, Utterance, Utterances
from domains.speech.data.prepared import KIND, PreparedReader
from flowkit.errors import UserError
from flowkit.shards.opening import Opened, ShardOptions, open_shards
from flowkit.shards.tar import array_of, members_of


class ShardedUtterances(Utterances):
    """The utterances of one split; those of one shard are a group."""

    def __init__(self, packed: PackedShards, rows: np.ndarray, *, blank: bool = True) -> None:
        super().__init__(packed, rows, blank=blank)
        self.window = packed.shards.window
        self.ahead = len(rows) // len(packed.shards.index.shards) if packed.shards.far else 0

    def groups(self) -> np.ndarray:
        """The shard of each utterance."""
        return self.packed.shards.index.shard_of(self.rows)

    def about(self) -> Mapping[str, Any]:
        """The set and the window."""
        return self.packed.shards.about()

    def expect(self, indices: Sequence[int]) -> None:
        """Fetch what lies elsewhere."""
        self.packed.shards.expect(self.rows[np.asarray(indices, dtype=np.int64)])


class PackedShards:
    """What stands for a prepared folder, read from shards: an item is an utterance.

    Args:
        opened: the set.
    """

    def __init__(self, opened: Opened) -> None:
        self.shards, self.skipped = opened.shards, opened.skipped
        index = self.shards.index
        self.manifest: dict[str, Any] = index.manifest
        if self.manifest["format"] != FORMAT:
            raise UserError(
                f"the shards in {self.place} hold speech of format {self.manifest['format']}, this version reads "
                f"{FORMAT}: write them again with flowkit data shard"
            )
        self.columns: list[str] = self.manifest["columns"]
        self.frames, self.counts = index.table("frames"), index.table("tokens")
        self.splits = index.table("split")
        if opened.damaged is not None:
            self.splits = np.where(opened.damaged, -1, self.splits)

    @property
    def place(self) -> str:
        """Where the shards are, for people."""
        return str(self.shards.places)

    def column(self, name: str, rows: np.ndarray) -> list[Any]:
        """One column at ``rows``; but for plain numbers, every utterance is read."""
        if name in self.shards.index.tables:
            return self.shards.index.table(name)[rows].tolist()
        return [self.read(rows[row : row + 1])[0].row[name] for row in range(len(rows))]

    def read(self, rows: np.ndarray) -> list[Utterance]:
        """The utterances ``rows`` (n,).

        Raises:
            UserError: a shard is missing or damaged.
        """
        found = []
        for data in self.shards.read(rows):
            members = members_of(data)
            mel, tokens = (array_of(members[name]) for name in ("mel.npy", "tokens.npy"))
            found.append(Utterance(mel, tokens, json.loads(bytes(members["json"]))))
        return found

    def utterances(self, rows: np.ndarray, *, blank: bool) -> ShardedUtterances:
        """Those of one split."""
        return ShardedUtterances(self, rows, blank=blank)


class SpeechShards(PreparedReader):
    """Speech that ``flowkit data shard`` wrote, from folders on any number of disks or from addresses.

    Args:
        places: folders, in which the shards may lie in any way; ``http://...`` and other addresses that webdataset
            opens; ``pipe:COMMAND`` with ``{}`` where the name of a file goes.
        blank: see :class:`~domains.speech.data.prepared.PreparedReader`.
        window: shards that training mixes at a time; 0 mixes all, as if the data lay in memory.
        skip_damaged: read every shard once, leave out what is missing or damaged and count it; otherwise an error.
        cache: folder for what is fetched from addresses; empty means ``$FLOWKIT_CACHE`` or the user's cache folder.
        cache_gib: how much may lie there, GiB; processes share it.
    """

    def __init__(
        self, places: list[str], *, blank: bool = True, window: int = 16, skip_damaged: bool = False, cache: str = "",
        cache_gib: float = 50.0,
    ) -> None:  # fmt: skip
        super().__init__(blank=blank)
        self.places = places
        self.options = ShardOptions(window=window, skip_damaged=skip_damaged, cache=cache, cache_gib=cache_gib)

    @cached_property
    def packed(self) -> PackedShards:
        """The set."""
        return PackedShards(open_shards(self.places, self.options, kind=KIND))

    def prepare(self) -> None:
        """Open the set and see that it is whole."""
        _ = self.packed

    def statistics(self) -> Mapping[str, Any]:
        """See :class:`~domains.speech.data.prepared.PreparedReader`; and ``shards`` (their number) and ``damaged``
        (utterances that are left out).
        """
        packed = self.packed
        return {**super().statistics(), "shards": len(packed.shards.index.shards), "damaged": packed.skipped}
