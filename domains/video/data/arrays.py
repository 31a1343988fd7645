"""Videos that are kept as arrays of numpy: for machines that have no decoder, and for what other programs made.

A file is ``.npy`` with frames, or ``.npz`` with ``frames`` or ``changes``, and perhaps ``ground``, ``actions``,
``states``, ``label_NAME`` and ``fps``. Frames are uint8 (videos, T, H, W, C), or (T, H, W, C) for one video, C = 3 or
1. ``changes`` hold, in the place of each frame but the first of a video, its difference (modulo 256) from the frame
before: pictures that stand still pack well so. Where there is a ``ground`` (H, W, C), ``frames`` are the differences
from it: many short videos of one place pack better so. ``actions`` are (videos, T - 1, A) or (T - 1, A); ``states``,
what is known of each frame, (videos, T, S) or (T, S); labels, what is known of a video, whole numbers (videos,) or
(videos, K).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
        ground: uint8 (H, W, C), from which frames are differences, or None.
        states: float32 (videos, T, S), or None.
        labels: of the videos, by name, int64 (videos,) or (videos, K).
    """

    frames: np.ndarray
    changes: bool = False
    actions: np.ndarray | None = None
    fps: float = 0.0
    ground: np.ndarray | None = None
    states: np.ndarray | None = None
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)

    def video(self, number: int) -> np.ndarray:
        """One video: uint8 (T, 3, H, W)."""
        found = self.frames[number]
        if self.changes:
            found = found.copy()
            for row in range(1, len(found)):
                found[row] += found[row - 1]
        if self.ground is not None:
            found = found + self.ground
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
    ground = named.get("ground")
    if ground is not None and (key == "changes" or ground.dtype != np.uint8 or ground.shape != frames.shape[2:]):
        raise UserError(
            f"ground of {str(path)!r} is {ground.dtype} of shape {ground.shape}: with 'frames', uint8 "
            f"{frames.shape[2:]} is expected"
        )
    length = frames.shape[1]
    actions, states = (
        _numbers(named[name], name, path, (len(frames), count), single=single) if name in named else None
        for name, count in (("actions", length - 1), ("states", length))
    )
    labels = {name[6:]: _labels(named[name], name, path, len(frames)) for name in named if name.startswith("label_")}
    return Arrays(frames, key == "changes", actions, _rate(named.get("fps", 0.0), path), ground, states, labels)


def _numbers(given: Any, name: str, path: Path, counts: tuple[int, int], *, single: bool) -> np.ndarray:
    """Actions or states: float32 (videos, T - 1 or T, numbers), checked."""
    where = "between two frames" if name == "actions" else "of each frame"
    if not np.issubdtype(given.dtype, np.number) and given.dtype != bool:
        raise UserError(f"{name} of {str(path)!r} are {given.dtype}: numbers are expected")
    values = np.asarray(given, dtype=np.float32)
    values = values[None] if single else values
    if values.ndim != 3 or values.shape[:2] != counts or not values.shape[2]:
        wanted = f"({counts[0]}, {counts[1]}, numbers) is expected: one {where}"
        raise UserError(f"{name} of {str(path)!r} have shape {values.shape}, {wanted}")
    if not np.isfinite(values).all():
        raise UserError(f"{name} of {str(path)!r} hold values that are not finite: take these videos out")
    return values


def _labels(given: Any, name: str, path: Path, videos: int) -> np.ndarray:
    """Labels of the videos, checked."""
    if given.dtype.kind not in "iub" or given.ndim not in (1, 2) or len(given) != videos:
        raise UserError(
            f"{name} of {str(path)!r} is {given.dtype} of shape {given.shape}: whole numbers ({videos},) or "
            f"({videos}, K) are expected"
        )
    return given.astype(np.int64)


def _rate(given: Any, path: Path) -> float:
    """Frames per second, checked."""
    rate = np.asarray(given)
    if rate.size != 1 or not np.issubdtype(rate.dtype, np.number) or not 0.0 <= float(rate.reshape(())) < np.inf:
        raise UserError(f"fps of {str(path)!r} is {given}: one number, or 0 where the rate is not known, is expected")
    return float(rate.reshape(()))


def pack_arrays(
    path: Path,
    frames: np.ndarray,
    *,
    tolerance: int = 0,
    fps: float = 0.0,
    actions: np.ndarray | None = None,
    states: np.ndarray | None = None,
    labels: Mapping[str, np.ndarray] | None = None,
    ground: np.ndarray | None = None,
) -> None:
    """Write an ``.npz``, compressed: with ``changes``, or with ``frames`` where a ``ground`` is given.

    Args:
        path: of the file.
        frames: uint8 (videos, T, H, W, C) or (T, H, W, C).
        tolerance: of changes: a pixel that differs in no channel by more than this from what is shown already is left
            as it is; 0 keeps every frame as it was.
        fps: frames per second.
        actions: float32 between the frames.
        states: float32 of each frame.
        labels: of the videos, by name.
        ground: uint8 (H, W, C), what most frames show in most places.

    Raises:
        UserError: a tolerance, with a ground: such a file is exact.
    """
    if ground is not None and tolerance:
        raise UserError(f"tolerance is {tolerance}: with a ground frames are kept as they are, set it to 0")
    named: dict[str, Any] = {"fps": np.float64(fps)}
    if ground is not None:
        named |= {"frames": frames - ground, "ground": ground}
    else:
        named["changes"] = _changes(frames, tolerance)
    for name, values in (("actions", actions), ("states", states)):
        if values is not None:
            named[name] = np.asarray(values, dtype=np.float32)
    named |= {f"label_{name}": np.asarray(values) for name, values in (labels or {}).items()}

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **named)

    atomic.write(path, save)


def _changes(frames: np.ndarray, tolerance: int) -> np.ndarray:
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
    return changes.reshape(frames.shape)


def write_frames(folder: Path, arrays: Arrays, manifest: Mapping[str, Any], fps: float = 0.0) -> None:
    """Write a folder of frames: each video of ``arrays`` after the other."""
    count, length, height, width, _ = arrays.frames.shape
    entries = 0 if arrays.actions is None else arrays.actions.shape[2]
    known = 0 if arrays.states is None else arrays.states.shape[2]
    rows = []
    with FrameWriter(folder, size=(height, width), actions=entries, states=known) as writer:
        for number in range(count):
            video = arrays.video(number)
            done = None
            if arrays.actions is not None:
                # Nothing follows the last frame.
                done = np.concatenate([arrays.actions[number], np.zeros((1, entries), dtype=np.float32)])
            states = None if arrays.states is None else arrays.states[number]
            for first in range(0, length, _CHUNK):
                part = slice(first, first + _CHUNK)
                writer.add(video[part], *(None if rest is None else rest[part] for rest in (done, states)))
            labels = {name: values[number].tolist() for name, values in arrays.labels.items()}
            rows.append(
                {"frames": length, "fps": fps or arrays.fps, "group": str(number), "split": None, "labels": labels}
            )
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
