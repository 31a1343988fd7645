"""The first frames of a video file, cut to a square and scaled: what a prediction goes on from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flowkit.errors import UserError


def read_square(path: str | Path, *, size: int, start: int, count: int, stride: int = 1) -> tuple[np.ndarray, float]:
    """At most ``count`` frames from frame ``start`` on, each ``stride``-th, decoded from the beginning of the file.

    Frames are counted as decoded: header and time stamps may lie. The middle square of each is scaled to ``size``.

    Returns:
        uint8 (n, 3, size, size) RGB with n <= count, and the frames a second of what is returned (10 where the file
        names none).

    Raises:
        UserError: PyAV is missing, the file is missing, damaged or no video.
    """
    try:
        import av
    except ImportError as error:
        raise UserError("reading videos needs PyAV, which is not installed: pip install av") from error
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    found: list[np.ndarray] = []
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path} holds no video stream")
            stream = container.streams.video[0]
            rate = float(stream.average_rate or stream.guessed_rate or 10.0)
            for number, frame in enumerate(container.decode(stream)):
                if number >= start and (number - start) % stride == 0:
                    if frame.is_corrupt:
                        raise UserError(f"{path}: frame {number} is damaged")
                    found.append(_square(frame, size))
                    if len(found) == count:
                        break
    except av.error.FFmpegError as error:
        raise UserError(f"{path} cannot be read as a video: {error.strerror or error}") from None
    if not found:
        return np.empty((0, 3, size, size), np.uint8), rate / stride
    return np.stack(found), rate / stride


def _square(frame: object, size: int) -> np.ndarray:
    """(3, size, size) uint8: scaled so that the shorter side fits, then the middle is cut out."""
    height, width = frame.height, frame.width  # pyright: ignore[reportAttributeAccessIssue]
    scale = size / min(height, width)
    high, wide = max(size, round(height * scale)), max(size, round(width * scale))
    image = frame.reformat(wide, high, "rgb24", interpolation="AREA").to_ndarray()  # pyright: ignore[reportAttributeAccessIssue]
    top, left = (high - size) // 2, (wide - size) // 2
    return np.ascontiguousarray(image[top : top + size, left : left + size].transpose(2, 0, 1))
