"""Clips as records of shards: runs of frames, and tables that say which clips are cut from them.

Frames that clips have in common are written once where the source keeps them so; else each clip is a run of its own.
"""

from __future__ import annotations

import io
import json
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from domains.video.data.clips import SPLITS, ClipSamples, MappedClips, MappedFrames
from domains.video.data.direct import FileClips, FileFrames
from flowkit.data import DataSource
from flowkit.errors import UserError
from flowkit.shards.records import Record, Records

#: What shards hold: the ``kind`` of their index.
KIND = "video"
FORMAT = 1
#: Most frames of a record, and its most bytes (one frame at least).
_FRAMES, _BYTES = 64, 8 << 20
#: Clips asked for at once.
_BLOCK = 256


@dataclass(frozen=True)
class _Frames:
    """The frames behind the clips.

    Args:
        read: frames ``first`` to ``last`` (not included), uint8 (n, 3, H, W); they are of one run.
        shape: of a frame.
        runs: (n,) lengths of runs: videos, or clips.
        about: of each run, for people who read the shards with other programs.
        actions: (N, A) float32, or None.
    """

    read: Callable[[int, int], np.ndarray]
    shape: tuple[int, ...]
    runs: np.ndarray
    about: Callable[[int], Mapping[str, Any]]
    actions: np.ndarray | None


def clip_records(source: DataSource) -> Records:
    """A prepared source of clips as records.

    Raises:
        UserError: its splits are not clips.
    """
    splits: dict[str, ClipSamples] = {}
    for name in SPLITS:
        samples = source.split(name)
        if not isinstance(samples, ClipSamples):
            raise UserError(f"{type(source).__name__} cannot be written as shards: its samples are no clips")
        splits[name] = samples
    shared = _shared(list(splits.values()))
    frames, starts, stride = _of_clips(splits) if shared is None else (_of_videos(shared), None, _stride(splits))
    piece = int(np.prod(frames.shape))
    most = max(min(_FRAMES, _BYTES // piece), 1)
    counts = -(-frames.runs // most)
    return Records(
        kind=KIND,
        count=int(counts.sum()),
        read=partial(_record, frames, np.cumsum([0, *counts]).tolist(), np.cumsum([0, *frames.runs]).tolist(), most),
        items=int(frames.runs.sum()),
        tables=_tables(splits, starts) | ({} if frames.actions is None else {"actions": frames.actions}),
        manifest=_manifest(source, splits, frames, stride),
    )


def _record(frames: _Frames, counts: list[int], firsts: list[int], most: int, number: int) -> Record:
    run = bisect_right(counts, number) - 1
    first = firsts[run] + (number - counts[run]) * most
    shown = frames.read(first, min(first + most, firsts[run + 1]))
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(shown), allow_pickle=False)
    about = {"run": run, "first": first - firsts[run], **frames.about(run)}
    members = {"about.json": json.dumps(about, ensure_ascii=False).encode(), "frames.npy": stream.getvalue()}
    return Record(members, items=len(shown), piece=int(np.prod(frames.shape)))


# --- frames -----------------------------------------------------------------------------------------------------------


def _shared(splits: list[ClipSamples]) -> MappedFrames | FileFrames | None:
    """The frames of which all splits are cut, where there are such."""
    first = splits[0]
    if not isinstance(first, MappedClips | FileClips):
        return None
    same = all(isinstance(clips, MappedClips | FileClips) and clips.source is first.source for clips in splits)
    return first.source if same else None


def _stride(splits: Mapping[str, Any]) -> int:
    return int(splits["train"].stride)


def _of_videos(source: MappedFrames | FileFrames) -> _Frames:
    rows = source.manifest["videos"]

    def read(first: int, last: int) -> np.ndarray:
        return source.frames[first:last] if isinstance(source, MappedFrames) else source.read(np.arange(first, last))

    def about(run: int) -> Mapping[str, Any]:
        return {name: rows[run][name] for name in ("key", "fps", "labels") if name in rows[run]}

    lengths = np.array([row["frames"] for row in rows], dtype=np.int64)
    return _Frames(read, read(0, 1).shape[1:], lengths, about, source.actions)


def _of_clips(splits: Mapping[str, ClipSamples]) -> tuple[_Frames, dict[str, np.ndarray], int]:
    """Every clip by itself; where the clips of each split begin, and the stride."""
    sizes = [len(clips) for clips in splits.values()]
    begins = np.cumsum([0, *sizes]).tolist()
    one = splits["train"].read(np.array([0]))[0]
    length = len(one)

    def clip(run: int) -> tuple[ClipSamples, np.ndarray]:
        split = bisect_right(begins, run) - 1
        return splits[SPLITS[split]], np.array([run - begins[split]])

    def read(first: int, last: int) -> np.ndarray:
        clips, number = clip(first // length)
        return clips.read(number)[0, first % length : (last - 1) % length + 1]

    starts = {
        name: (np.arange(size) + begin) * length for name, size, begin in zip(SPLITS, sizes, begins[:-1], strict=True)
    }
    runs = np.full(begins[-1], length, dtype=np.int64)
    return _Frames(read, one.shape[1:], runs, lambda _: {}, _actions(splits)), starts, 1


def _actions(splits: Mapping[str, ClipSamples]) -> np.ndarray | None:
    """(N, A): a row for each frame; nothing follows the last of a clip."""
    found = [
        part
        for clips in splits.values()
        for first in range(0, len(clips), _BLOCK)
        if (part := clips.actions(np.arange(first, min(first + _BLOCK, len(clips))))) is not None
    ]
    if not found:
        return None
    padded = np.pad(np.concatenate(found).astype(np.float32), ((0, 0), (0, 1), (0, 0)))
    return padded.reshape(-1, padded.shape[2])


# --- clips ------------------------------------------------------------------------------------------------------------


def _tables(splits: Mapping[str, ClipSamples], starts: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
    """Of each split: first frames and numbers of the clips, what is known of them, where they lie in larger frames."""
    tables: dict[str, np.ndarray] = {}
    for name, clips in splits.items():
        parts = [np.arange(first, min(first + _BLOCK, len(clips))) for first in range(0, len(clips), _BLOCK)]
        every = np.arange(len(clips))
        tables[f"{name}.start"] = np.asarray(clips.starts if starts is None else starts[name], dtype=np.int64)  # pyright: ignore[reportAttributeAccessIssue]
        tables[f"{name}.number"] = np.asarray(clips.clip_numbers(every), dtype=np.int64)
        known = [clips.attributes(part) for part in parts]  # pyright: ignore[reportArgumentType]
        for label in known[0] if known else ():
            tables[f"{name}.is.{label}"] = np.concatenate([values[label] for values in known])
        if starts is None:
            tables[f"{name}.flipped"] = np.asarray(clips.flipped, dtype=bool)  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(clips, MappedClips):
                tables[f"{name}.corner"] = np.asarray(clips.corners, dtype=np.int32)
    return tables


def _manifest(source: DataSource, splits: Mapping[str, ClipSamples], frames: _Frames, stride: int) -> dict[str, Any]:
    shown = splits["train"].read(np.array([0])).shape
    statistics = {name: value for name, value in source.statistics().items() if name != "folder"}
    return {
        "format": FORMAT,
        "frames": shown[1],
        "stride": stride,
        "frame": list(frames.shape),
        "size": list(shown[3:]),
        "statistics": json.loads(json.dumps(statistics)),
    }
