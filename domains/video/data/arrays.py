"""Videos that are kept as arrays of numpy: for machines that have no decoder, and for what other programs made.

A file is ``.npy`` with frames, or ``.npz`` with ``frames`` or ``changes``, and perhaps ``actions`` and ``fps``. Frames
are uint8 (videos, T, H, W, C), or (T, H, W, C) for one video, C = 3 or 1. ``changes`` hold, in the place of each frame
but the first of a video, its difference (modulo 256) from the frame before: pictures that stand still pack well so.
``actions`` are (videos, T - 1, A) or (T - 1, A).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from domains.video.data.clips import FrameWriter
from domains.video.data.dividing import divided
from domains.video.data.mapped import MappedSource
from flowkit import atomic
from flowkit.errors import UserError

#: Frames that are turned and written at once.
_CHUNK = 256


@dataclass(frozen=True)
class Arrays:
    """What a file holds.

    Args:
        frames: uint8 (videos, T, H, W, 3 or 1); where ``changes`` is true, differences.
        changes: whether frames are differences from the frame before.
        actions: float32 (videos, T - 1, A), or None.
        fps: frames per second, 0 where unknown.
    """

    frames: np.ndarray
    changes: bool = False
    actions: np.ndarray | None = None
    fps: float = 0.0

    def video(self, number: int) -> np.ndarray:
        """One video: uint8 (T, 3, H, W)."""
        found = self.frames[number]
        if self.changes:
            found = found.copy()
            for row in range(1, len(found)):
                found[row] += found[row - 1]
        return np.broadcast_to(found.transpose(0, 3, 1, 2), (len(found), 3, *found.shape[1:3]))


def read_arrays(path: Path) -> Arrays:
    """Read a file of the kinds that this module describes.

    Raises:
        UserError: it is missing, damaged, or holds something else.
    """
    told = "uint8 (videos, T, H, W, 3) or (T, H, W, 3)"
    try:
        loaded: Any = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None, allow_pickle=False)
        named: dict[str, Any] = {"frames": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except FileNotFoundError:
        raise UserError(f"there is no file {str(path)!r}: give an .npy or .npz of frames, {told}") from None
    except Exception as error:  # zipfile, zlib and numpy each have errors of their own for damaged files
        raise UserError(f"cannot read arrays from {str(path)!r} ({error}): give an .npy or .npz of frames") from error
    key = "changes" if "changes" in named else "frames"
    if key not in named:
        raise UserError(f"{str(path)!r} holds {', '.join(named) or 'nothing'}: 'frames' or 'changes' is expected")
    frames = np.asarray(named[key])
    if frames.dtype != np.uint8 or frames.ndim not in (4, 5) or frames.shape[-1] not in (1, 3) or not frames.size:
        raise UserError(f"{key} of {str(path)!r} are {frames.dtype} of shape {frames.shape}, {told} is expected")
    single = frames.ndim == 4
    frames = frames[None] if single else frames
    actions = None if "actions" not in named else _actions(named["actions"], path, frames, single=single)
    return Arrays(frames, key == "changes", actions, _rate(named.get("fps", 0.0), path))


def _actions(given: Any, path: Path, frames: np.ndarray, *, single: bool) -> np.ndarray:
    """Actions (videos, T - 1, A) float32, checked."""
    wanted = f"({len(frames)}, {frames.shape[1] - 1}, numbers) is expected: one between two frames"
    if not np.issubdtype(given.dtype, np.number) and given.dtype != bool:
        raise UserError(f"actions of {str(path)!r} are {given.dtype}: numbers are expected")
    actions = np.asarray(given, dtype=np.float32)
    actions = actions[None] if single else actions
    if actions.ndim != 3 or actions.shape[:2] != (len(frames), frames.shape[1] - 1) or not actions.shape[2]:
        raise UserError(f"actions of {str(path)!r} have shape {actions.shape}, {wanted}")
    if not np.isfinite(actions).all():
        raise UserError(f"actions of {str(path)!r} hold values that are not finite: take these videos out")
    return actions


def _rate(given: Any, path: Path) -> float:
    """Frames per second, checked."""
    rate = np.asarray(given)
    if rate.size != 1 or not np.issubdtype(rate.dtype, np.number) or not 0.0 <= float(rate.reshape(())) < np.inf:
        raise UserError(f"fps of {str(path)!r} is {given}: one number, or 0 where the rate is not known, is expected")
    return float(rate.reshape(()))


def pack_arrays(
    path: Path, frames: np.ndarray, *, tolerance: int = 0, fps: float = 0.0, actions: np.ndarray | None = None
) -> None:
    """Write an ``.npz`` with ``changes``, compressed.

    Args:
        path: of the file.
        frames: uint8 (videos, T, H, W, C) or (T, H, W, C).
        tolerance: a pixel that differs in no channel by more than this from what is shown already is left as it is; 0
            keeps every frame as it was.
        fps: frames per second.
        actions: float32 between the frames.
    """
    videos = frames[None] if frames.ndim == 4 else frames
    changes = np.empty_like(videos)
    for video, out in zip(videos, changes, strict=True):
        shown = video[0].astype(np.int16)
        out[0] = video[0]
        for row in range(1, len(video)):
            change = video[row].astype(np.int16) - shown
            if tolerance:
                change *= np.abs(change).max(-1, keepdims=True) > tolerance
            shown += change
            out[row] = (change % 256).astype(np.uint8)
    named: dict[str, Any] = {"changes": changes.reshape(frames.shape), "fps": np.float64(fps)}
    if actions is not None:
        named["actions"] = np.asarray(actions, dtype=np.float32)

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **named)

    atomic.write(path, save)


def write_frames(folder: Path, arrays: Arrays, manifest: Mapping[str, Any], fps: float = 0.0) -> None:
    """Write a folder of frames: each video of ``arrays`` after the other."""
    count, length, height, width, _ = arrays.frames.shape
    entries = 0 if arrays.actions is None else arrays.actions.shape[2]
    rows = []
    with FrameWriter(folder, size=(height, width), actions=entries) as writer:
        for number in range(count):
            video = arrays.video(number)
            done = None
            if arrays.actions is not None:
                # Nothing follows the last frame.
                done = np.concatenate([arrays.actions[number], np.zeros((1, entries), dtype=np.float32)])
            for first in range(0, length, _CHUNK):
                part = slice(first, first + _CHUNK)
                writer.add(video[part], None if done is None else done[part])
            rows.append({"frames": length, "fps": fps or arrays.fps, "group": str(number), "split": None, "labels": {}})
        writer.finish({**manifest, "videos": rows})


def stamp(path: Path) -> list[Any]:
    """What tells a file from another: place, size, time of its last change.

    Raises:
        UserError: it is not there.
    """
    try:
        about = path.stat()
    except OSError as error:
        raise UserError(f"there is no file {str(path)!r}: {error.strerror or error}") from error
    return [str(path.resolve()), about.st_size, about.st_mtime_ns]


class ArrayClips(MappedSource):
    """Clips of videos in an ``.npy`` or ``.npz`` file; needs no decoder. See the module's text for what it may hold.

    Frames larger than ``size`` are not scaled: clips show squares of that side, placed as ``windows`` and
    ``candidates`` say. Videos of one file belong to one split each; a single video is cut in time.

    Args:
        file: the ``.npy`` or ``.npz``.
        fps: frames per second; 0 as the file says.
        validation: share of the videos for validation, at least one where it is positive.
        test: the same for the test split.
        options: see :class:`~domains.video.data.mapped.MappedSource`.
    """

    def __init__(
        self, file: str, *, fps: float = 0.0, validation: float = 0.05, test: float = 0.05, **options: Any
    ) -> None:
        super().__init__(**options)
        self.file, self.fps, self.validation, self.test = file, fps, validation, test
        self.source = f"arrays in {Path(file).name}"

    @property
    def cut(self) -> bool:
        """Whether the frames are larger than ``size``."""
        return self.mapped.frames.shape[2:] != (self.size, self.size)

    def check(self) -> None:
        """See :class:`~domains.video.data.mapped.MappedSource`."""
        super().check()
        if not 0.0 <= self.fps < np.inf:
            raise UserError(f"data.init_args.fps is {self.fps}: it is not negative")

    def settings(self) -> Mapping[str, Any]:
        """See :class:`~domains.video.data.mapped.MappedSource`."""
        return {"file": stamp(Path(self.file).expanduser()), "fps": self.fps}

    def fill(self, folder: Path) -> None:
        """Unpack."""
        write_frames(folder, read_arrays(Path(self.file).expanduser()), {"source": self.source}, self.fps)

    def pieces(self) -> Mapping[str, np.ndarray]:
        """Divided by :func:`~domains.video.data.dividing.divided`."""
        height, width = self.mapped.frames.shape[2:]
        if min(height, width) < self.size:
            raise UserError(
                f"data.init_args.size is {self.size}: frames of {self.file!r} have {height} x {width} pixels"
            )
        rows = self.mapped.manifest["videos"]
        return divided(rows, validation=self.validation, test=self.test, seed=self.seed)
