"""Results to look at, listen to or read: pictures, sounds and texts that go to a file and to TensorBoard."""

from __future__ import annotations

import contextlib
import os
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from flowkit.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, then rename it: nobody ever sees half a file.

    Raises:
        UserError: the file cannot be written (no such folder, no right, disk full).
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            write(file)
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return path


def _with_suffix(stem: Path, suffix: str) -> Path:
    # Not Path.with_suffix: a stem such as "step-0.5" has a dot of its own.
    return stem if stem.suffix == suffix else stem.with_name(stem.name + suffix)


@dataclass(frozen=True)
class Picture:
    """An RGB picture, uint8 (height, width, 3)."""

    pixels: np.ndarray

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 3 or self.pixels.shape[2] != 3:
            raise ValueError(f"a picture is uint8 (height, width, 3), not {self.pixels.dtype} {self.pixels.shape}")

    @classmethod
    def of_figure(cls, figure: Figure) -> Picture:
        """Draw a matplotlib figure (made with ``matplotlib.figure.Figure``, so that no window system is touched)."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return cls(np.asarray(canvas.buffer_rgba())[..., :3].copy())

    def to_tensorboard(self, writer: Any, tag: str, step: int) -> None:
        """``writer.add_image`` (a ``SummaryWriter``)."""
        writer.add_image(tag, self.pixels, global_step=step, dataformats="HWC")

    def save(self, stem: Path) -> Path:
        """Write a PNG."""
        from matplotlib.image import imsave

        return write_atomically(_with_suffix(stem, ".png"), lambda file: imsave(file, self.pixels, format="png"))


@dataclass(frozen=True)
class Sound:
    """A mono recording: float samples in [-1, 1] and samples per second."""

    samples: np.ndarray
    rate: int

    def __post_init__(self) -> None:
        if self.samples.ndim != 1 or not np.issubdtype(self.samples.dtype, np.floating):
            raise ValueError(f"a sound is a row of floats, not {self.samples.dtype} {self.samples.shape}")

    def to_tensorboard(self, writer: Any, tag: str, step: int) -> None:
        """``writer.add_audio``."""
        writer.add_audio(tag, np.clip(self.samples, -1.0, 1.0)[None], global_step=step, sample_rate=self.rate)

    def save(self, stem: Path) -> Path:
        """Write a WAV of 16 bits; louder samples are clipped."""
        pcm = np.round(np.clip(np.nan_to_num(self.samples), -1.0, 1.0) * 32767.0).astype("<i2")

        def write(file: BinaryIO) -> None:
            with wave.open(file, "wb") as out:
                out.setnchannels(1)
                out.setsampwidth(2)
                out.setframerate(self.rate)
                out.writeframes(pcm.tobytes())

        return write_atomically(_with_suffix(stem, ".wav"), write)


@dataclass(frozen=True)
class Text:
    """A text."""

    text: str

    def to_tensorboard(self, writer: Any, tag: str, step: int) -> None:
        """``writer.add_text``."""
        writer.add_text(tag, self.text, global_step=step)

    def save(self, stem: Path) -> Path:
        """Write UTF-8 with a newline at the end."""
        return write_atomically(
            _with_suffix(stem, ".txt"), lambda file: file.write((self.text.rstrip("\n") + "\n").encode())
        )
