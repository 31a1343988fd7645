"""Frames of a video file: from end to end, and any frame at random, equal bit for bit."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from domains.video.data.clips import FrameWriter, MappedFrames
from domains.video.data.index import VideoIndex, opened, quarter_turns
from flowkit import atomic
from flowkit.caching import cache_root
from flowkit.errors import UserError, writing

_CHUNK = 64
#: Going to a key frame costs as much as decoding about so many frames.
_SEEK = 4


@dataclass(frozen=True)
class Fit:
    """The size that frames are brought to.

    Args:
        size: height and width: the shorter side is scaled to it, the middle of the longer one is kept; 0 leaves frames
            as they are.
        window: where positive, frames are kept whole and scaled so that squares of this side become ``size``.
    """

    size: int = 0
    window: int = 0

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what becomes of a frame."""
        return (self.size, self.size) if self.size and not self.window else self._scaled(height, width)

    def _scaled(self, height: int, width: int) -> tuple[int, int]:
        if not self.size:
            return height, width
        side = self.window or min(height, width)
        high, wide = (max(self.size, round(length * self.size / side)) for length in (height, width))
        return high, wide

    def __call__(self, frame: Any, reformatter: Any = None) -> np.ndarray:
        """A decoded frame as uint8 (3, H, W), RGB, whatever its pixel format; converted and scaled in one call, and
        turned as players turn it (telephones film upright pictures lying down).

        ``reformatter``: of PyAV, kept from frame to frame: setting one up costs several times what it does.
        """
        return np.ascontiguousarray(self.view(frame, reformatter or new_reformatter()))

    def view(self, frame: Any, reformatter: Any) -> np.ndarray:
        """The same, in memory with the channels last."""
        height, width = self._scaled(frame.height, frame.width)
        kind = "AREA" if height < frame.height else "BICUBIC"
        rgb = reformatter.reformat(frame, width, height, "rgb24", interpolation=kind, threads=1).to_ndarray()
        high, wide = self.shape(frame.height, frame.width)
        top, left = (height - high) // 2, (width - wide) // 2
        cut = rgb[top : top + high, left : left + wide]
        turns = quarter_turns(frame)
        return (np.rot90(cut, turns) if turns else cut).transpose(2, 0, 1)


def new_reformatter() -> Any:
    """What converts and scales frames, for :class:`Fit`."""
    from av.video.reformatter import VideoReformatter

    return VideoReformatter()


def decode(path: Path, fit: Fit = Fit()) -> Iterator[np.ndarray]:
    """All frames from end to end: uint8 (3, H, W).

    Raises:
        UserError: the file cannot be read, is damaged, or its frames change their size and ``fit`` keeps them.
    """
    number, shape = 0, None
    with opened(path, threads="AUTO") as (container, stream):
        reformatter = new_reformatter()
        for frame in container.decode(stream):
            array = np.ascontiguousarray(_converted(frame, fit, path, number, reformatter))
            if shape is not None and array.shape != shape:
                raise UserError(f"frames of {str(path)!r} change their size at frame {number}: give a size for all")
            shape = array.shape
            yield array
            number += 1


def _converted(frame: Any, fit: Fit, path: Path, number: int, reformatter: Any) -> np.ndarray:
    if frame.is_corrupt:
        raise UserError(f"{str(path)!r} is damaged or cut short: frame {number} is not whole")
    return fit.view(frame, reformatter)


class VideoReader:
    """Any frames of one file. The container stays open between calls; one thread at a time. A forked process opens the
    file anew, as it would share its place in it with the others.

    A frame is reached from the last key frame before it, and the time of what comes out is compared with the index: a
    frame is the one that was asked for, or there is an error. A file whose stamps cannot be trusted is decoded once to
    the cache.

    Args:
        index: of the file.
        fit: the size that frames are brought to.
        cache: where files without usable stamps are decoded to; empty means ``$FLOWKIT_CACHE`` or the user's cache
            folder.
    """

    def __init__(self, index: VideoIndex, fit: Fit = Fit(), *, cache: str = "") -> None:
        self.index, self.fit, self.cache = index, fit, cache
        self._open: ExitStack | None = None
        self._container: Any = None
        self._stream: Any = None
        self._reformatter: Any = None
        self._frames: Iterator[Any] = iter(())
        #: Number of the frame that was decoded last, and that frame; -1 where there is none.
        self._number, self._frame = -1, None
        self._mapped: MappedFrames | None = None
        self._process = os.getpid()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.index)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the frames that :meth:`read` gives."""
        return self.fit.shape(self.index.height, self.index.width)

    def close(self) -> None:
        """Close the file; :meth:`read` opens it again."""
        if self._open is not None:
            self._open.close()
        self._open, self._frames, self._number, self._frame = None, iter(()), -1, None

    def read(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Frames by number, in any order, repeated or not: uint8 (n, 3, H, W). Each is decoded once.

        Raises:
            UserError: a frame cannot be decoded, or the file was changed since it was indexed.
            IndexError: there is no such frame.
        """
        wanted = np.asarray(numbers, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"{str(self.index.path)!r} has frames 0 to {len(self) - 1}")
        if not self.index.seekable:
            return np.array(self._all().frames[wanted])
        if self._process != os.getpid():
            self.close()
            self._process = os.getpid()
        out = np.empty((len(wanted), 3, *self.shape), dtype=np.uint8)
        ordered, places = np.unique(wanted, return_inverse=True)
        for place, number in enumerate(ordered.tolist()):
            array = _converted(self._reach(number), self.fit, self.index.path, number, self._reformatter)
            if array.shape != out.shape[1:]:
                raise UserError(
                    f"frames of {str(self.index.path)!r} change their size at frame {number}: give a size for all"
                )
            out[places == place] = array
        return out

    def _reach(self, number: int) -> Any:
        """The decoded frame ``number``."""
        wanted = int(self.index.pts[number])
        key = int(np.searchsorted(self.index.keys, wanted, side="right")) - 1
        begun = int(np.searchsorted(self.index.pts, self.index.keys[key]))
        failure: UserError | None = None
        # On from here where no key frame is much nearer; else from it, the one before it, the start of the file.
        if 0 <= self._number <= number and self._number + _SEEK >= begun:
            try:
                frame = self._advance(number)
                if frame is not None:
                    return frame
            except UserError as error:
                failure = error
        for start in dict.fromkeys((key, max(key - 1, 0), -1)):
            try:
                self._seek(start)
                frame = self._advance(number)
            except UserError as error:
                failure = error
                continue
            if frame is not None:
                return frame
        self.close()
        raise failure or UserError(
            f"{str(self.index.path)!r} has no frame at {wanted * float(self.index.time_base):.3f} s, which its packets "
            "promise: it is damaged, or was changed since it was indexed"
        )

    def _seek(self, key: int) -> None:
        """Go to a key frame by its number; -1 opens the file anew."""
        from av.error import FFmpegError

        fresh = key < 0 or self._open is None
        if fresh:
            self.close()
            self._open = ExitStack()
            self._container, self._stream = self._open.enter_context(opened(self.index.path))
            self._reformatter = new_reformatter()
        self._number, self._frame = -1, None
        if key > 0 or not fresh:
            try:
                target = int(self.index.keys[max(key, 0)])
                self._container.seek(target, stream=self._stream, backward=True, any_frame=False)
            except FFmpegError as error:
                raise self._error(error) from error
        self._frames = iter(self._container.decode(self._stream))

    def _advance(self, number: int) -> Any:
        """Decode until frame ``number`` comes; None where a later one or none comes."""
        from av.error import FFmpegError

        wanted = self.index.pts[number]
        if self._number == number:
            return self._frame
        try:
            for frame in self._frames:
                if frame.pts is None or frame.pts > wanted:
                    break
                if frame.pts == wanted:
                    self._number, self._frame = number, frame
                    return frame
        except (FFmpegError, OSError) as error:
            self._number, self._frame = -1, None
            raise self._error(error) from error
        self._number, self._frame = -1, None
        return None

    def _error(self, error: Any) -> UserError:
        return UserError(f"cannot read the video {str(self.index.path)!r}: {error.strerror or error}")

    def _all(self) -> MappedFrames:
        """All frames of a file that is only read from its start, decoded once."""
        if self._mapped is None:
            name = hashlib.sha256(f"{self.index.digest} {self.fit}".encode()).hexdigest()[:16]
            folder = cache_root(self.cache) / "video" / f"decoded-{name}"
            with writing(folder, "decoded frames to "):
                atomic.write_folder_once(folder, self._fill)
            self._mapped = MappedFrames(folder)
        return self._mapped

    def _fill(self, folder: Path) -> None:
        with FrameWriter(folder, size=self.shape) as writer:
            for frames in chunks(decode(self.index.path, self.fit)):
                writer.add(frames)
            if writer.frames != len(self):
                raise UserError(
                    f"{str(self.index.path)!r} gives {writer.frames} frames and had {len(self)} when it was indexed"
                )
            writer.finish({"video": self.index.path.name})


def chunks(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Frames (3, H, W) gathered to (n, 3, H, W), n at most 64."""
    held: list[np.ndarray] = []
    for frame in frames:
        held.append(frame)
        if len(held) == _CHUNK:
            yield np.stack(held)
            held = []
    if held:
        yield np.stack(held)
