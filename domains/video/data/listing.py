"""The videos of a folder, before and while they are decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from flowkit.data import Split
from flowkit.errors import UserError

SUFFIXES = tuple(
    f".{name}"
    for name in (
        *("mp4", "m4v", "mov", "avi", "mkv", "webm", "mpg", "mpeg", "ts", "wmv", "flv"),
        *("ogv", "3gp", "gif", "h264", "hevc", "y4m"),
    )
)


@dataclass(frozen=True)
class Video:
    """One video of a folder.

    Args:
        key: its name, unique in the folder.
        path: of its file (or of what else it is read from).
        group: videos of one group are never in different splits; empty: a group of its own.
        split: of which it is whatever the shares; None: as they say.
        labels: what is known of it, by name.
    """

    key: str
    path: Path
    group: str = ""
    split: Split | None = None
    labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Frames:
    """What a video gives.

    Args:
        fps: frames per second, 0 where unknown.
        digest: hash of the content.
        expected: how many there should be.
        each: the frames, uint8 (3, H, W) at the wanted size.
        times: (n,) seconds of the frames.
        actions: (n, A) float32, what was done from each frame to the next (the last row counts for nothing); None
            where nothing is known of it. Goes with frames of which none is left out.
    """

    fps: float
    digest: str
    expected: int
    each: Iterator[np.ndarray]
    times: np.ndarray
    actions: np.ndarray | None = None


def find_files(root: Path, suffixes: Iterable[str]) -> list[tuple[str, Path]]:
    """Names relative to ``root`` and paths of all files below it that end so, sorted; hidden ones are passed over.

    ``root`` may be a file: then it is the only one.

    Raises:
        UserError: there is no such folder, or no such file in it.
    """
    known = tuple(suffixes)
    if root.is_file():
        return [(root.name, root)]
    if not root.is_dir():
        raise UserError(f"data.init_args.folder: there is no folder or file {str(root)!r}")
    found: list[tuple[str, Path]] = []
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        if path.suffix.lower() in known and path.is_file() and not any(part.startswith(".") for part in parts):
            found.append(("/".join(parts), path))
    if not found:
        raise UserError(f"{str(root)!r} holds no video: files that end in {', '.join(known)} are looked for")
    return sorted(found)


def seen_frames(times: np.ndarray, own: float, fps: float, path: Path) -> np.ndarray:
    """(n,) int64, the frames of a video that are shown at ``fps`` frames per second (0: all), in order.

    Args:
        times: seconds of the frames.
        own: frames per second of the video, 0 where unknown.
        fps: wanted.
        path: of the video, for the message.

    Raises:
        UserError: the video has no rate.
    """
    if fps and not own and len(times) > 1:
        raise UserError(f"the rate of {str(path)!r} is not known: leave data.init_args.fps at 0")
    if not fps:
        return np.arange(len(times))
    # The last frame at or before each tick is the one that was seen then.
    end = times[-1] + (1 / own if own else 0.0)
    ticks = np.arange(max(1, int(end * fps + 1e-6))) / fps
    return np.searchsorted(times, ticks + 1e-6, side="right") - 1


def paced(given: Frames, fps: float, path: Path) -> Iterator[np.ndarray]:
    """The frames of a video at ``fps`` frames per second (0: its own), by leaving out or repeating some.

    Raises:
        UserError: not as many frames come as were promised, or the video has no rate.
    """
    repeats = np.bincount(seen_frames(given.times, given.fps, fps, path), minlength=given.expected)
    number = 0
    for number, frame in enumerate(given.each, 1):
        if number <= given.expected:
            yield from (frame for _ in range(repeats[number - 1]))
    if number != given.expected:
        raise UserError(f"{str(path)!r} is damaged: it gives {number} frames of {given.expected}")
