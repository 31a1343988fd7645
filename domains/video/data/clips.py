"""Clips of a fixed number of frames, and the folder of memory-mapped frames that training reads them from.

A folder of frames holds ``frames.npy`` (the frames of all videos one after another, uint8, N x 3 x H x W), where there
are actions ``actions.npy`` (float32, N x A: row i leads from frame i to frame i + 1), where more is known of frames
``states.npy`` (float32, N x S), and ``manifest.json``.
"""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import torch

from flowkit.data import DataSource, RawBatch, Samples, Split
from flowkit.errors import UserError, nearest
from flowkit.shards.records import Records, Sharding

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
#: Raised when the layout of a folder of frames changes.
FORMAT = 1


def split_number(name: str) -> int:
    """Place of a split's name in :data:`SPLITS`.

    Raises:
        UserError: there is no such split.
    """
    if name not in SPLITS:
        raise UserError(f"data has no split {name!r}: {nearest(name, SPLITS)}")
    return SPLITS.index(name)


def check_clip(*, frames: int, stride: int, size: int) -> None:
    """Check what all sources share.

    Raises:
        UserError: fewer than 2 frames, a stride below 1, frames smaller than 8 pixels.
    """
    for name, value, least in (("frames", frames, 2), ("stride", stride, 1), ("size", size, 8)):
        if value < least:
            raise UserError(f"data.init_args.{name} is {value}: it is at least {least}")


class ClipSamples(Samples):
    """Clips by index. A subclass writes :meth:`read`, and :meth:`actions` and :meth:`attributes` where it has them."""

    @abstractmethod
    def read(self, indices: np.ndarray) -> np.ndarray:
        """The frames of the clips ``indices`` (b,): uint8 (b, T, 3, H, W). A pure function of the indices."""

    def clip_numbers(self, indices: np.ndarray) -> np.ndarray:
        """(b,) int64, a number of each clip that no other clip of the source has; the indices where nothing else."""
        return indices

    def actions(self, indices: np.ndarray) -> np.ndarray | None:
        """(b, T - 1, A) float32, what was done between each frame and the next; None where nothing was."""
        return None

    def attributes(self, indices: Sequence[int]) -> Mapping[str, np.ndarray]:
        """What is known of the clips, by name, clips first; empty where nothing is."""
        return {}

    def batch(self, indices: Sequence[int]) -> RawBatch:
        """``frames`` uint8 (b, T, 3, H, W), ``clip`` int64 (b,), and ``actions`` float32 (b, T - 1, A) where the source
        has them.

        Raises:
            UserError: a clip cannot be read.
        """
        rows = np.asarray(indices, dtype=np.int64).reshape(-1)
        count = len(self)
        if rows.size and (rows.min() < 0 or rows.max() >= count):
            raise IndexError(f"clips are 0 to {count - 1}, got {rows.min()} to {rows.max()}")
        raw: RawBatch = {
            "frames": torch.from_numpy(self.read(rows)),
            "clip": torch.from_numpy(np.ascontiguousarray(self.clip_numbers(rows), dtype=np.int64)),
        }
        actions = self.actions(rows)
        if actions is not None:
            raw["actions"] = torch.from_numpy(np.ascontiguousarray(actions, dtype=np.float32))
        return raw


class ClipSource(Sharding):
    """A source whose splits are :class:`ClipSamples`."""

    def records(self) -> Records:
        """See :mod:`domains.video.data.sharding`."""
        from domains.video.data.sharding import clip_records

        return clip_records(self)

    def shards_source(self, places: list[str], **options: Any) -> DataSource:
        """See :class:`~flowkit.shards.records.Sharding`."""
        from domains.video.data.shards import VideoShards

        return VideoShards(places, **options)


def clip_starts(lengths: np.ndarray, *, frames: int, stride: int, hop: int) -> tuple[np.ndarray, np.ndarray]:
    """First frames of all clips that fit whole into videos.

    Args:
        lengths: (n,) frames of each video.
        frames: of a clip.
        stride: frames from one frame of a clip to its next.
        hop: frames from the start of a clip to the start of the next; 0: none in common.

    Returns:
        Number of the video (m,) and place of the first frame inside it (m,), both int64.
    """
    span = (frames - 1) * stride + 1
    counts = np.maximum((np.asarray(lengths, dtype=np.int64) - span) // (hop or span) + 1, 0)
    video = np.repeat(np.arange(len(counts)), counts)
    first = np.arange(len(video)) - np.repeat(np.cumsum(counts) - counts, counts)
    return video, first * (hop or span)


class FrameWriter:
    """Writes a folder of frames, so that sets larger than the memory pass through. Use it as a context manager;
    :meth:`finish` writes the manifest.

    Args:
        folder: an empty folder.
        size: height and width of the frames.
        actions: entries of an action; 0: none.
        states: numbers that are known of a frame; 0: none.
    """

    def __init__(self, folder: Path, *, size: tuple[int, int], actions: int = 0, states: int = 0) -> None:
        self.folder, self.size, self.frames = folder, size, 0
        self._files: list[tuple[IO[bytes], np.dtype, tuple[int, ...]]] = []
        self._open("frames.npy", np.dtype(np.uint8), (3, *size))
        for name, count in (("actions", actions), ("states", states)):
            if count:
                self._open(f"{name}.npy", np.dtype(np.float32), (count,))

    def _open(self, name: str, dtype: np.dtype, row: tuple[int, ...]) -> None:
        self._files.append(((self.folder / name).open("wb"), dtype, row))
        self._header(*self._files[-1])

    def _header(self, file: IO[bytes], dtype: np.dtype, row: tuple[int, ...]) -> None:
        # numpy leaves room for a longer first axis, so the header keeps its size.
        description = {"descr": dtype.str, "fortran_order": False, "shape": (self.frames, *row)}
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, description)

    def __enter__(self) -> FrameWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file, _, _ in self._files:
            file.close()

    def add(self, frames: np.ndarray, actions: np.ndarray | None = None, states: np.ndarray | None = None) -> None:
        """Append frames (n, 3, H, W) and, where the folder has them, actions (n, A) and states (n, S)."""
        given = [values for values in (frames, actions, states) if values is not None]
        for (file, dtype, row), values in zip(self._files, given, strict=True):
            rows = np.ascontiguousarray(values, dtype=dtype)
            if rows.shape != (len(frames), *row):
                raise ValueError(f"rows have shape {rows.shape}, {(len(frames), *row)} is expected")
            file.write(rows.data)
        self.frames += len(frames)

    def drop(self, frames: int) -> None:
        """Take the last ``frames`` frames away again: their video turned out to be bad."""
        self.frames -= frames
        for file, dtype, row in self._files:
            file.seek(-frames * dtype.itemsize * int(np.prod(row)), os.SEEK_CUR)
            file.truncate()

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Complete the arrays and write ``manifest`` (JSON values)."""
        for part in self._files:
            self._header(*part)
            part[0].close()
        content = json.dumps({"format": FORMAT, **manifest}, ensure_ascii=False)
        (self.folder / "manifest.json").write_text(content, encoding="utf-8")


class MappedFrames:
    """A folder of frames, memory-mapped. Sent to another process, it is opened there anew.

    Args:
        folder: written by :class:`FrameWriter`.

    Raises:
        UserError: something is missing, broken or of another format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        again = "delete the folder and prepare it again"
        try:
            self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            if self.manifest["format"] != FORMAT:
                raise UserError(
                    f"prepared frames in {str(folder)!r} have format {self.manifest['format']}, this version reads "
                    f"{FORMAT}: {again}"
                )
            # A plain array over the map: slices of numpy's own memmap class cost twice as much.
            self.frames = np.asarray(np.load(folder / "frames.npy", mmap_mode="r"))
            self.actions, self.states = (
                np.load(file) if file.is_file() else None for file in (folder / "actions.npy", folder / "states.npy")
            )
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise UserError(f"prepared frames in {str(folder)!r} cannot be read ({error}): {again}") from error

    def __reduce__(self) -> tuple[type[MappedFrames], tuple[Path]]:
        return MappedFrames, (self.folder,)


class MappedClips(ClipSamples):
    """Clips of memory-mapped frames.

    Args:
        source: the frames.
        starts: (n,) first frame of each clip, in all frames.
        frames: of a clip.
        stride: frames from one frame of a clip to its next.
        names: attributes of the clips, by name, (n, ...).
        corners: (n, 2) upper left corners of the clips, y then x, where they show a part of the frames.
        size: height and width of that part.
        flipped: (n,) whether a clip is seen in a mirror.
    """

    def __init__(
        self,
        source: MappedFrames,
        starts: np.ndarray,
        *,
        frames: int,
        stride: int = 1,
        names: Mapping[str, np.ndarray] | None = None,
        corners: np.ndarray | None = None,
        size: int = 0,
        flipped: np.ndarray | None = None,
    ) -> None:
        self.source, self.starts, self.frames, self.stride = source, starts, frames, stride
        self.flipped = np.zeros(len(starts), dtype=bool) if flipped is None else flipped
        self.corners = np.zeros((len(starts), 2), dtype=np.int64) if corners is None else corners
        self.shape = (size, size) if size else source.frames.shape[2:]
        self._names = dict(names or {})

    def __len__(self) -> int:
        return len(self.starts)

    def clip_numbers(self, indices: np.ndarray) -> np.ndarray:
        """Made of the first frame, the corner and the mirror: other clips, and other splits, have others."""
        _, _, height, width = self.source.frames.shape
        y, x = self.corners[indices].T
        return (self.starts[indices] * height + y) * width + x + (self.flipped[indices].astype(np.int64) << 62)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """See :class:`ClipSamples`."""
        every, span = self.source.frames, (self.frames - 1) * self.stride + 1
        height, width = self.shape
        out = np.empty((len(indices), self.frames, 3, height, width), dtype=np.uint8)
        places = zip(self.starts[indices].tolist(), self.corners[indices].tolist(), strict=True)
        for row, (start, (y, x)) in enumerate(places):
            out[row] = every[start : start + span : self.stride, :, y : y + height, x : x + width]
        mirrored = self.flipped[indices]
        if mirrored.any():
            out[mirrored] = out[mirrored, ..., ::-1]
        return out

    def actions(self, indices: np.ndarray) -> np.ndarray | None:
        """(b, T - 1, A), at a stride above 1 (b, T - 1, stride * A): all that was done between two frames."""
        if self.source.actions is None:
            return None
        steps = np.arange((self.frames - 1) * self.stride)
        rows = self.source.actions[self.starts[indices][:, None] + steps]
        return rows.reshape(len(indices), self.frames - 1, -1)

    def attributes(self, indices: Sequence[int]) -> Mapping[str, np.ndarray]:
        """See :class:`ClipSamples`."""
        rows = np.asarray(indices, dtype=np.int64)
        return {name: values[rows] for name, values in self._names.items()}
