"""Clips in shards: sets that are larger than the memory and than one disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from domains.video.data.clips import SPLITS, ClipSamples, split_number
from domains.video.data.sharding import FORMAT, KIND
from flowkit.data import DataSource, Split
from flowkit.errors import UserError
from flowkit.shards.opening import Opened, ShardOptions, open_shards


class ShardClips(ClipSamples):
    """The clips of one split; those that begin in one shard are a group. An item of the shards is a frame.

    Args:
        opened: the set.
        name: of the split.
    """

    def __init__(self, opened: Opened, name: str) -> None:
        self.shards = opened.shards
        index = self.shards.index
        manifest = index.manifest
        self.frames, self.stride = int(manifest["frames"]), int(manifest["stride"])
        self.frame, self.size = tuple(manifest["frame"]), tuple(manifest["size"])
        tables = {table: index.table(table) for table in index.tables if table.startswith(f"{name}.")}
        if opened.damaged is not None:
            # How many frames before each are damaged tells whether a clip has one.
            before = np.concatenate([[0], np.cumsum(opened.damaged)])
            starts = tables[f"{name}.start"]
            whole = before[starts + (self.frames - 1) * self.stride + 1] == before[starts]
            tables = {table: values[whole] for table, values in tables.items()}
        self.starts, self.numbers = tables[f"{name}.start"], tables[f"{name}.number"]
        self.corners, self.flipped = tables.get(f"{name}.corner"), tables.get(f"{name}.flipped")
        self._known = {table.split(".is.", 1)[1]: values for table, values in tables.items() if ".is." in table}
        self._actions = index.table("actions") if "actions" in index.tables else None
        self.window = self.shards.window
        self.ahead = len(self.starts) // len(index.shards) if self.shards.far else 0

    def __len__(self) -> int:
        return len(self.starts)

    def _rows(self, indices: np.ndarray) -> np.ndarray:
        return self.starts[indices][:, None] + np.arange(self.frames) * self.stride

    def groups(self) -> np.ndarray:
        """The shard in which each clip begins."""
        return self.shards.index.shard_of(self.starts)

    def about(self) -> Mapping[str, Any]:
        """The set and the window."""
        return self.shards.about()

    def expect(self, indices: Sequence[int]) -> None:
        """Fetch what lies elsewhere."""
        self.shards.expect(self._rows(np.asarray(indices, dtype=np.int64)).reshape(-1))

    def clip_numbers(self, indices: np.ndarray) -> np.ndarray:
        """Those of the source that was written."""
        return self.numbers[indices]

    def read(self, indices: np.ndarray) -> np.ndarray:
        """See :class:`~domains.video.data.clips.ClipSamples`; frames that clips of a batch share are read once.

        Raises:
            UserError: a shard is missing or damaged.
        """
        rows = self._rows(indices)
        wanted, places = np.unique(rows, return_inverse=True)
        shown = [np.frombuffer(data, dtype=np.uint8).reshape(self.frame) for data in self.shards.read(wanted)]
        height, width = self.size
        out = np.empty((*rows.shape, 3, height, width), dtype=np.uint8)
        clips: list[list[int]] = places.reshape(rows.shape).tolist()  # pyright: ignore[reportAssignmentType]
        for row, clip in enumerate(clips):
            y, x = (0, 0) if self.corners is None else self.corners[indices[row]].tolist()
            for place, frame in enumerate(clip):
                out[row, place] = shown[frame][:, y : y + height, x : x + width]
        mirrored = None if self.flipped is None else self.flipped[indices]
        if mirrored is not None and mirrored.any():
            out[mirrored] = out[mirrored, ..., ::-1]
        return out

    def actions(self, indices: np.ndarray) -> np.ndarray | None:
        """See :class:`~domains.video.data.clips.MappedClips`."""
        if self._actions is None:
            return None
        steps = np.arange((self.frames - 1) * self.stride)
        rows = self._actions[self.starts[indices][:, None] + steps]
        return rows.reshape(len(indices), self.frames - 1, -1)

    def attributes(self, indices: Sequence[int]) -> Mapping[str, np.ndarray]:
        """See :class:`~domains.video.data.clips.ClipSamples`."""
        rows = np.asarray(indices, dtype=np.int64)
        return {name: values[rows] for name, values in self._known.items()}


class VideoShards(DataSource):
    """Clips that ``flowkit data shard`` wrote, from folders on any number of disks or from addresses.

    Which clips there are, how long and how large, was decided when the shards were written.

    Args:
        places: folders, in which the shards may lie in any way; ``http://...`` and other addresses that webdataset
            opens; ``pipe:COMMAND`` with ``{}`` where the name of a file goes.
        window: shards that training mixes at a time; 0 mixes all, as if the data lay in memory.
        skip_damaged: read every shard once, leave out the clips of which frames are missing or damaged and count them;
            otherwise an error.
        cache: folder for what is fetched from addresses; empty means ``$FLOWKIT_CACHE`` or the user's cache folder.
        cache_gib: how much may lie there, GiB; processes share it.
    """

    def __init__(
        self, places: list[str], *, window: int = 16, skip_damaged: bool = False, cache: str = "",
        cache_gib: float = 50.0,
    ) -> None:  # fmt: skip
        self.places = places
        self.options = ShardOptions(window=window, skip_damaged=skip_damaged, cache=cache, cache_gib=cache_gib)
        self._splits: dict[str, ShardClips] = {}

    @cached_property
    def opened(self) -> Opened:
        """The set.

        Raises:
            UserError: it is not there or not whole.
        """
        opened = open_shards(self.places, self.options, kind=KIND)
        found = opened.shards.index.manifest["format"]
        if found != FORMAT:
            raise UserError(
                f"the shards in {opened.shards.places} hold clips of format {found}, this version reads {FORMAT}: "
                "write them again with flowkit data shard"
            )
        return opened

    def prepare(self) -> None:
        """Open the set and see that it is whole."""
        _ = self.opened

    def split(self, name: Split) -> ShardClips:
        """The clips of one split, in the order of the source that was written.

        Raises:
            UserError: no such split.
        """
        split_number(name)
        if name not in self._splits:
            self._splits[name] = ShardClips(self.opened, name)
        return self._splits[name]

    def statistics(self) -> Mapping[str, Any]:
        """Those of the source that was written, with the clips that are there; and ``shards`` (their number),
        ``damaged`` (clips that are left out) and ``folder`` (where the shards are).
        """
        index = self.opened.shards.index
        clips = {name: len(self.split(name)) for name in SPLITS}
        written = sum(len(index.table(f"{name}.start")) for name in SPLITS)
        return {
            **index.manifest["statistics"],
            "clips": clips,
            "shards": len(index.shards),
            "damaged": written - sum(clips.values()),
            "folder": str(self.opened.shards.places),
        }
