"""Moving pictures: a clip that goes to an mp4 file and to TensorBoard."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from flowkit import atomic
from flowkit.errors import UserError, writing

#: Most frames and pixels across of an animation in TensorBoard, which loads it whole: longer clips leave frames out.
TENSORBOARD_FRAMES, TENSORBOARD_WIDTH = 120, 640


@dataclass(frozen=True)
class Clip:
    """A silent film.

    Args:
        frames: uint8 (frames, height, width, 3), RGB.
        fps: frames a second.
    """

    frames: np.ndarray
    fps: float

    def __post_init__(self) -> None:
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[3] != 3 or not self.frames.size:
            raise ValueError(f"a clip is uint8 (frames, height, width, 3), not {self.frames.dtype} {self.frames.shape}")
        if not self.fps > 0:
            raise ValueError(f"a clip has a positive number of frames a second, not {self.fps}")

    def save(self, stem: Path) -> Path:
        """Write an mp4 (H.264, yuv420p: what every player and browser shows).

        Raises:
            UserError: PyAV is not installed, or the file cannot be written.
        """
        path = stem if stem.suffix == ".mp4" else stem.with_name(stem.name + ".mp4")
        return save_film(path, self.frames, self.fps)

    def gif(self) -> bytes:
        """An animated GIF that plays for ever, of at most ``TENSORBOARD_FRAMES`` frames and ``TENSORBOARD_WIDTH``."""
        from PIL import Image

        stride = -(-len(self.frames) // TENSORBOARD_FRAMES)
        shrunk = max(1, -(-self.frames.shape[2] // TENSORBOARD_WIDTH))
        # Octree: ten times as fast as the default, and these pictures have few colours.
        first, *rest = [
            Image.fromarray(pixels).reduce(shrunk).quantize(128, method=Image.Quantize.FASTOCTREE)
            for pixels in self.frames[::stride]
        ]
        file = io.BytesIO()
        # GIF counts in hundredths of a second; viewers play anything under two of them slowly.
        duration = max(20, round(100 * stride / self.fps) * 10)
        first.save(file, format="GIF", save_all=True, append_images=rest, duration=duration, loop=0)
        return file.getvalue()

    def to_tensorboard(self, writer: Any, tag: str, step: int) -> None:
        """An animation on the page "Images" (``SummaryWriter.add_video`` wants another package for the same)."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        gif = self.gif()
        width, height = struct.unpack("<HH", gif[6:10])  # of a GIF's header
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)


def import_av() -> Any:
    """PyAV.

    Raises:
        UserError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise UserError("films need PyAV, which is not installed: pip install av") from error
    return av


def save_film(path: Path, frames: Iterable[np.ndarray], fps: float) -> Path:
    """Write an mp4 (H.264, yuv420p: what every player and browser shows) of frames as they come; memory holds one.

    Args:
        path: of the file. It appears when the film is whole.
        frames: uint8 (height, width, 3), RGB, all of one size.
        fps: frames a second.

    Raises:
        UserError: PyAV or its encoder is not installed, or the file cannot be written; and what ``frames`` raise.
    """
    av = import_av()

    def encode(temporary: Path) -> None:
        with av.open(str(temporary), "w", options={"movflags": "+faststart"}) as container:
            stream: Any = None
            for pixels in frames:
                height, width = pixels.shape[:2]
                if stream is None:
                    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
                    stream.width, stream.height = width + width % 2, height + height % 2
                    stream.pix_fmt = "yuv420p"
                    stream.options = {"crf": "20"}
                # yuv420p halves the colours in both directions, so both sides must be even: the edge is repeated.
                padded = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
                container.mux(stream.encode(av.VideoFrame.from_ndarray(padded, format="rgb24")))
            if stream is not None:
                container.mux(stream.encode())

    try:
        with writing(path):
            atomic.write(path, encode)
    except av.codec.codec.UnknownCodecError as error:
        raise UserError(
            f"{path}: this PyAV has no encoder {error}, which films need: its wheels have it (pip install "
            "--force-reinstall --only-binary av av)"
        ) from error
    return path
