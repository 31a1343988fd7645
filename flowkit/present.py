"""Results to look at, listen to or read: pictures, sounds and texts that go to a file and to TensorBoard."""

from __future__ import annotations

import io
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowkit import atomic, errors

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _with_suffix(stem: Path | str, suffix: str) -> Path:
    stem = Path(stem)
    # Not Path.with_suffix: a stem such as "step-0.5" has a dot of its own.
    return stem if stem.suffix == suffix else stem.with_name(stem.name + suffix)


def _write(path: Path, content: bytes) -> Path:
    with errors.writing(path):
        atomic.write_bytes(path, content)
    return path


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

    def save(self, stem: Path | str) -> Path:
        """Write a PNG."""
        from matplotlib.image import imsave

        file = io.BytesIO()
        imsave(file, self.pixels, format="png")
        return _write(_with_suffix(stem, ".png"), file.getvalue())


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

    def save(self, stem: Path | str) -> Path:
        """Write a WAV of 16 bits; louder samples are clipped."""
        pcm = np.round(np.clip(np.nan_to_num(self.samples), -1.0, 1.0) * 32767.0).astype("<i2")
        file = io.BytesIO()
        with wave.open(file, "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(self.rate)
            out.writeframes(pcm.tobytes())
        return _write(_with_suffix(stem, ".wav"), file.getvalue())


@dataclass(frozen=True)
class Text:
    """A text."""

    text: str

    def to_tensorboard(self, writer: Any, tag: str, step: int) -> None:
        """``writer.add_text``."""
        writer.add_text(tag, self.text, global_step=step)

    def save(self, stem: Path | str) -> Path:
        """Write UTF-8 with a newline at the end."""
        return _write(_with_suffix(stem, ".txt"), (self.text.rstrip("\n") + "\n").encode())
