"""Pictures of speech: mels and alignments, drawn without a window system."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

from flowkit.present import Picture, Sound

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from domains.speech.features import MelConfig


def _figure(rows: int, height: float) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, height * rows), layout="constrained")
    axes = figure.subplots(rows, 1, squeeze=False)
    return figure, list(axes[:, 0])


def mel_picture(mels: Mapping[str, Float[Tensor, "bins t"]], config: MelConfig) -> Picture:
    """Log-mels above each other, each under its title, with one common colour scale and time in seconds."""
    figure, axes = _figure(len(mels), 2.4)
    arrays = {title: mel.detach().float().cpu().numpy() for title, mel in mels.items()}
    low, high = min(a.min() for a in arrays.values()), max(a.max() for a in arrays.values())
    for ax, (title, mel) in zip(axes, arrays.items(), strict=True):
        extent = (0.0, mel.shape[1] / config.frame_rate, 0.0, float(mel.shape[0]))
        image = ax.imshow(
            mel, origin="lower", aspect="auto", extent=extent, vmin=low, vmax=high, interpolation="nearest"
        )
        ax.set(title=title, ylabel="mel bin")
        figure.colorbar(image, ax=ax, label="log magnitude")
    axes[-1].set_xlabel("seconds")
    return Picture.of_figure(figure)


def alignment_picture(
    path: Float[Tensor, "n t"], config: MelConfig, symbols: str | None = None, title: str = "alignment"
) -> Picture:
    """The 0/1 alignment of tokens (upwards) and frames (as seconds); ``symbols`` label tokens where there is room."""
    figure, (ax,) = _figure(1, 4.0)
    array = path.detach().float().cpu().numpy()
    extent = (0.0, array.shape[1] / config.frame_rate, -0.5, array.shape[0] - 0.5)
    ax.imshow(array, origin="lower", aspect="auto", extent=extent, interpolation="nearest", cmap="Greys")
    ax.set(title=title, xlabel="seconds", ylabel="token")
    if symbols and len(symbols) == array.shape[0] and len(symbols) <= 90:
        # The font that matplotlib ships has the phonetic alphabet.
        ax.set_yticks(range(len(symbols)), list(symbols), fontsize=7)
    return Picture.of_figure(figure)


def sound(wave: Float[Tensor, " samples"], sample_rate: int) -> Sound:
    """A waveform as something to listen to."""
    return Sound(np.asarray(wave.detach().float().cpu().numpy()), sample_rate)
