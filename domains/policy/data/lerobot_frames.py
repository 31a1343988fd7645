"""Frames of LeRobot data: from videos at given times, and from pictures inside a table."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from domains.policy.data.lerobot_layout import EXTRA
from flowkit.errors import UserError


@dataclass(frozen=True)
class FrameSize:
    """Sizes of pictures, height and width.

    Args:
        stored: what the metadata says that they have.
        wanted: what they are scaled to.
    """

    stored: tuple[int, int]
    wanted: tuple[int, int]

    def fit(self, frame: np.ndarray, path: Path) -> np.ndarray:
        """A frame (H, W, 3) at the wanted size, by the means of areas; itself where it fits.

        Raises:
            UserError: it has not the size that is stored.
        """
        if frame.shape[:2] != self.stored:
            raise UserError(
                f"{str(path)!r} has pictures of {frame.shape[0]} x {frame.shape[1]}, meta/info.json says "
                f"{self.stored[0]} x {self.stored[1]}"
            )
        if self.stored == self.wanted:
            return frame
        from PIL import Image

        height, width = self.wanted
        return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BOX))


def video_frames(path: Path, times: np.ndarray, *, tolerance: float, size: FrameSize) -> np.ndarray:
    """The frames at ``times``.

    The video is entered at the last key frame before the first time and decoded from there on.

    Args:
        path: of the video.
        times: (T,) seconds in the video, increasing.
        tolerance: seconds that a frame's time may be off, half a frame is right.
        size: of the frames.

    Returns:
        (T, H, W, 3) uint8, RGB.

    Raises:
        UserError: the file is missing or truncated, or has no frame at one of the times.
    """
    try:
        import av
        from av.error import FFmpegError
    except ImportError as error:
        raise UserError(f"reading videos needs a package ({error}): {EXTRA}") from error
    frames = np.empty((len(times), *size.wanted, 3), dtype=np.uint8)
    found = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{str(path)!r} has no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            assert stream.time_base is not None
            container.seek(max(int((times[0] - tolerance) / stream.time_base), 0), stream=stream)
            for frame in container.decode(stream):
                time = frame.time
                if time is None or time < times[found] - tolerance:
                    continue
                if time > times[found] + tolerance:
                    break
                frames[found] = size.fit(frame.to_ndarray(format="rgb24"), path)
                found += 1
                if found == len(times):
                    return frames
    except (FFmpegError, OSError) as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot read the video {str(path)!r}: {reason}") from error
    raise UserError(
        f"video {str(path)!r} has no frame within {tolerance:.4g} s of {times[found]:.4f} s: it is cut short, or fps "
        "in meta/info.json is not its own"
    )


def picture_frames(pictures: Sequence[Any], folder: Path, path: Path, *, size: FrameSize) -> np.ndarray:
    """Pictures of a table: ``{"bytes": an encoded picture, "path": where it is if there are no bytes}``.

    Args:
        pictures: T of them.
        folder: from which paths count.
        path: the table, for messages.
        size: of the pictures.

    Returns:
        (T, H, W, 3) uint8, RGB.

    Raises:
        UserError: one cannot be read.
    """
    from PIL import Image

    frames = np.empty((len(pictures), *size.wanted, 3), dtype=np.uint8)
    for i, picture in enumerate(pictures):
        try:
            content = picture["bytes"]
            with Image.open(io.BytesIO(content) if content else folder / picture["path"]) as image:
                frames[i] = size.fit(np.asarray(image.convert("RGB")), path)
        except (OSError, TypeError, KeyError, ValueError) as error:
            raise UserError(f"{str(path)!r}: picture in row {i} of the episode cannot be read ({error})") from error
    return frames
