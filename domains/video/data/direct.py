"""Clips read from the video files themselves, at random: for sets that are too large to keep decoded."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from domains.video.data.clips import FORMAT, ClipSamples
from domains.video.data.index import VideoIndex
from domains.video.data.reader import Fit, VideoReader
from flowkit.errors import UserError

#: Files that a thread keeps open.
OPEN = 8


def save_indices(folder: Path, indices: Sequence[VideoIndex], numbers: Sequence[np.ndarray], manifest: Any) -> None:
    """Write what :class:`FileFrames` reads.

    Args:
        folder: an empty one.
        indices: of the videos.
        numbers: for each video, which of its frames are the frames of clips, in order.
        manifest: JSON values, as the other folders of frames have them.
    """
    named: dict[str, np.ndarray] = {}
    about = []
    for place, (index, seen) in enumerate(zip(indices, numbers, strict=True)):
        named |= {f"pts_{place}": index.pts, f"keys_{place}": index.keys, f"seen_{place}": seen}
        base = index.time_base
        about.append(
            {
                "path": str(index.path), "digest": index.digest, "codec": index.codec, "pixels": index.pixels,
                "width": index.width, "height": index.height, "time_base": [base.numerator, base.denominator],
                "seekable": index.seekable,
            }
        )  # fmt: skip
    np.savez(folder / "index.npz", allow_pickle=False, **named)  # pyright: ignore[reportArgumentType]
    content = json.dumps({"format": FORMAT, **manifest, "index": about}, ensure_ascii=False)
    (folder / "manifest.json").write_text(content, encoding="utf-8")


class FileFrames:
    """The frames of many files, numbered one file after another; each thread of each process has its own open files.

    Args:
        folder: written by :func:`save_indices`.
        fit: the size that frames are brought to.
        cache: where files without usable stamps are decoded to.

    Raises:
        UserError: something is missing or broken.
    """

    actions: None = None
    states: None = None

    def __init__(self, folder: Path, fit: Fit, *, cache: str = "") -> None:
        self.folder, self.fit, self.cache = folder, fit, cache
        try:
            self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            with np.load(folder / "index.npz", allow_pickle=False) as arrays:
                named = dict(arrays)
            self.indices = [
                VideoIndex(
                    **{**about, "path": Path(about["path"]), "time_base": Fraction(*about["time_base"])},
                    pts=named[f"pts_{place}"],
                    keys=named[f"keys_{place}"],
                )
                for place, about in enumerate(self.manifest["index"])
            ]
            self.numbers = [named[f"seen_{place}"] for place in range(len(self.indices))]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"the index in {str(folder)!r} cannot be read ({error}): delete the folder and prepare it again"
            ) from error
        self.begins = np.cumsum([0, *(len(seen) for seen in self.numbers)])
        self._own = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (self.folder, self.fit, self.cache)

    def _reader(self, video: int) -> VideoReader:
        """The least recently used file is closed where too many are open."""
        readers: OrderedDict[int, VideoReader] = self._own.__dict__.setdefault("readers", OrderedDict())
        if video not in readers:
            readers[video] = VideoReader(self.indices[video], self.fit, cache=self.cache)
            if len(readers) > OPEN:
                readers.popitem(last=False)[1].close()
        readers.move_to_end(video)
        return readers[video]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Frames by number, in any order: uint8 (n, 3, H, W). File after file, each frame is decoded once.

        Raises:
            UserError: a file cannot be read or was changed; files give frames of different sizes.
        """
        out: np.ndarray | None = None
        videos = np.searchsorted(self.begins, rows, side="right") - 1
        for video in np.unique(videos).tolist():
            here = np.flatnonzero(videos == video)
            frames = self._reader(video).read(self.numbers[video][rows[here] - self.begins[video]])
            if out is None:
                out = np.empty((len(rows), *frames.shape[1:]), dtype=np.uint8)
            if frames.shape[1:] != out.shape[1:]:
                raise UserError(
                    f"frames of {str(self.indices[video].path)!r} have another size than others: give a size"
                )
            out[here] = frames
        return np.empty((0, 3, *self.fit.shape(8, 8)), np.uint8) if out is None else out


def _opened(folder: Path, fit: Fit, cache: str) -> FileFrames:
    return FileFrames(folder, fit, cache=cache)


class FileClips(ClipSamples):
    """Clips of files.

    Args:
        source: the frames.
        starts: (n,) first frame of each clip, in all frames.
        frames: of a clip.
        stride: frames from one frame of a clip to its next.
        names: attributes of the clips, by name, (n, ...).
        flipped: (n,) whether a clip is seen in a mirror.
    """

    def __init__(
        self,
        source: FileFrames,
        starts: np.ndarray,
        *,
        frames: int,
        stride: int = 1,
        names: Mapping[str, np.ndarray] | None = None,
        flipped: np.ndarray | None = None,
    ) -> None:
        self.source, self.starts, self.frames, self.stride = source, starts, frames, stride
        self.flipped = np.zeros(len(starts), dtype=bool) if flipped is None else flipped
        self._names = dict(names or {})

    def __len__(self) -> int:
        return len(self.starts)

    def clip_numbers(self, indices: np.ndarray) -> np.ndarray:
        """The first frame, and the mirror."""
        return self.starts[indices] + (self.flipped[indices].astype(np.int64) << 62)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """See :class:`~domains.video.data.clips.ClipSamples`; frames that clips of a batch share are decoded once."""
        rows = self.starts[indices][:, None] + np.arange(self.frames) * self.stride
        wanted, places = np.unique(rows, return_inverse=True)
        out = self.source.read(wanted)[places.reshape(rows.shape)]
        mirrored = self.flipped[indices]
        if mirrored.any():
            out[mirrored] = out[mirrored, ..., ::-1]
        return out

    def attributes(self, indices: Sequence[int]) -> Mapping[str, np.ndarray]:
        """See :class:`~domains.video.data.clips.ClipSamples`."""
        rows = np.asarray(indices, dtype=np.int64)
        return {name: values[rows] for name, values in self._names.items()}
