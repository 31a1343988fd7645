"""What a video file holds, found by reading its packets: frame times, key frames, and whether frames can be reached at
random.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.errors import UserError

EXTRA = "pip install 'flowkit-fm[video]'"
#: So many frames are decoded to see whether the stamps of the packets are those of the frames.
_PROBED = 64
_BLOCK = 1 << 20


@contextmanager
def opened(path: Path, *, threads: str = "NONE") -> Iterator[tuple[Any, Any]]:
    """An open container and its first video stream; damage is an error and not patched over.

    Args:
        path: of the video.
        threads: ``AUTO`` for reading from end to end, ``NONE`` for short pieces.

    Raises:
        UserError: the file is missing, empty, no video, or there is no decoder for it; and for any error of the
            decoder inside the block.
    """
    try:
        import av
        from av.error import FFmpegError
    except ImportError as error:
        raise UserError(f"reading videos needs a package ({error}): {EXTRA}") from error
    try:
        if not path.stat().st_size:
            raise UserError(f"{str(path)!r} is empty: copy the video again")
        with av.open(str(path), options={"err_detect": "explode"}) as container:
            if not container.streams.video:
                raise UserError(f"{str(path)!r} has no video stream")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise UserError(f"{str(path)!r} holds video in a format that this FFmpeg has no decoder for")
            stream.thread_type = threads
            if threads == "NONE":
                stream.codec_context.thread_count = 1
            stream.codec_context.options = {"err_detect": "explode"}
            yield container, stream
    except (FFmpegError, OSError) as error:
        raise UserError(f"cannot read the video {str(path)!r}: {error.strerror or error}") from error


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """One video file.

    Args:
        path: of the file.
        digest: hash of its content.
        codec: name of the codec.
        pixels: name of the pixel format.
        width, height: of a frame as it is shown.
        time_base: seconds of one unit of ``pts``.
        pts: (n,) int64 times of the frames in units of ``time_base``, increasing.
        keys: (k,) int64, those of them at which decoding can begin.
        seekable: whether single frames can be reached; otherwise the file is read from its start.
    """

    path: Path
    digest: str
    codec: str
    pixels: str
    width: int
    height: int
    time_base: Fraction
    pts: np.ndarray
    keys: np.ndarray
    seekable: bool

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def times(self) -> np.ndarray:
        """(n,) float64 seconds after the first frame."""
        return (self.pts - self.pts[0]) * float(self.time_base)

    @property
    def fps(self) -> float:
        """Mean frames per second; 0 for a single frame."""
        return (len(self) - 1) / float(self.times[-1]) if len(self) > 1 else 0.0


def digest(path: Path) -> str:
    """Hash of a file's content."""
    state = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
    return state.hexdigest()


def index_video(path: Path) -> VideoIndex:
    """Index a file: reads all packets and decodes the first frames; all frames where the stamps cannot be trusted.

    Numbers in the file's header (of frames, of frames per second) are not believed.

    Raises:
        UserError: it is missing, empty, damaged, no video, or has no frame.
    """
    with opened(path) as (container, stream):
        about = {
            "codec": stream.codec_context.name,
            "pixels": stream.codec_context.pix_fmt or "",
            "width": stream.codec_context.width,
            "height": stream.codec_context.height,
        }
        base = Fraction(stream.time_base) if stream.time_base else Fraction(1, 90_000)
        rate = stream.average_rate or stream.guessed_rate
        packets = []
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise UserError(f"{str(path)!r} is damaged or cut short: packet {len(packets)} is not whole")
            if packet.size and not packet.is_discard:
                packets.append((packet.pts, packet.is_keyframe))
    stamps = [pts for pts, _ in packets]
    if not packets:
        raise UserError(f"{str(path)!r} has no frame")
    pts, keys, seekable = np.empty(0, np.int64), np.empty(0, np.int64), False
    if None not in stamps and len(set(stamps)) == len(stamps):
        pts = np.sort(np.asarray(stamps, dtype=np.int64))
        keys = np.sort(np.asarray([stamp for stamp, key in packets if key], dtype=np.int64))
        seekable = bool(len(keys)) and keys[0] == pts[0] and _decoded(path, _PROBED) == pts[:_PROBED].tolist()
    if not seekable:
        pts, base = _counted(path, base, rate)
        keys = pts[:1]
    if _lies(path):
        about |= {"width": about["height"], "height": about["width"]}
    return VideoIndex(path, digest(path), time_base=base, pts=pts, keys=keys, seekable=seekable, **about)


def quarter_turns(frame: Any) -> int:
    """By how many quarters of a turn, against the clock, a decoded frame is to be shown: 0 to 3."""
    return round(frame.rotation / 90) % 4


def _lies(path: Path) -> bool:
    """Whether frames are shown with their width upright."""
    with opened(path) as (container, stream):
        first = next(container.decode(stream), None)
        return first is not None and quarter_turns(first) % 2 == 1


def _decoded(path: Path, count: int) -> list[int | None]:
    """Stamps of the first frames in the order in which the decoder gives them; of all where ``count`` is 0."""
    found: list[int | None] = []
    with opened(path, threads="NONE" if count else "AUTO") as (container, stream):
        for frame in container.decode(stream):
            found.append(frame.pts)
            if len(found) == count:
                break
    return found


def _counted(path: Path, base: Fraction, rate: Fraction | None) -> tuple[np.ndarray, Fraction]:
    """Stamps and their unit of a file whose stamps are missing or out of order: its own where the decoder gives
    increasing ones, otherwise one a frame.
    """
    stamps = _decoded(path, 0)
    if not stamps:
        raise UserError(f"{str(path)!r} has no frame that can be decoded")
    if None not in stamps:
        pts = np.asarray(stamps, dtype=np.int64)
        if (np.diff(pts) > 0).all():
            return pts, base
    return np.arange(len(stamps), dtype=np.int64), 1 / Fraction(rate or 25)
