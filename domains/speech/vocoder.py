"""From log-mel to sound: the :class:`Vocoder` interface, and Griffin-Lim, which needs no training."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from domains.speech.features import MelConfig, mel_filters
from flowkit.errors import UserError
from flowkit.random import RandomSource, Rows, uniform


class Vocoder(nn.Module, ABC):
    """Turns log-mels of one set of settings into sound.

    Attributes:
        config: the mel settings that it understands.
    """

    config: MelConfig

    @abstractmethod
    def forward(
        self, mel: Float[Tensor, "b bins frames"], generator: RandomSource | None = None
    ) -> Float[Tensor, "b samples"]:
        """Sound of ``frames * hop`` samples in about [-1, 1]. ``generator`` draws what is random; None means seed 0."""


class GriffinLim(Vocoder):
    """Fast Griffin-Lim whose magnitudes stay free inside what the mel says.

    The phase search is the accelerated iteration of Perraudin, Balazs and Soendergaard (2013), "A fast Griffin-Lim
    algorithm". The mel fixes 80 sums over some 500 magnitudes, so the first ``settle`` iterations keep a smooth inverse
    of the mel, and the later ones take the magnitudes of the present sound, multiplied towards the given mel. (Measured
    on five clips at 16 kHz, free against fixed magnitudes: mean error of the log-mel 0.04 and 0.125, spectral
    convergence 0.11 and 0.21, DNSMOS 3.15 and 2.89; the recordings have 3.18.)

    Args:
        mel: settings of the mels.
        iterations: of the phase search.
        momentum: in [0, 1); 0 is plain Griffin-Lim.
        settle: iterations with fixed magnitudes; ``iterations`` or more never frees them.
    """

    window: Tensor
    filters: Tensor
    weights: Tensor

    def __init__(
        self, mel: MelConfig | None = None, iterations: int = 60, momentum: float = 0.99, settle: int = 10
    ) -> None:
        super().__init__()
        self.config = mel or MelConfig()
        self.iterations, self.momentum, self.settle = iterations, momentum, settle
        filters = mel_filters(self.config)
        self.register_buffer("filters", filters, persistent=False)
        # Each frequency's shares in the bins that see it; a frequency outside all filters stays silent.
        self.register_buffer("weights", (filters / filters.sum(0).clamp_min(1e-8)).T.contiguous(), persistent=False)
        self.register_buffer("window", torch.hann_window(self.config.win), persistent=False)

    def _fit(self, magnitude: Tensor, target: Tensor) -> Tensor:
        """One multiplicative update. Ratios, not differences: quiet frames converge as fast as loud ones."""
        return magnitude * (self.weights @ (target / (self.filters @ magnitude).clamp_min(1e-8)))

    def magnitude(
        self, mel: Float[Tensor, "b bins frames"], updates: int = 10
    ) -> Float[Tensor, "b frequencies frames"]:
        """A smooth non-negative spectrum whose mel is near ``exp(mel)``."""
        target = _linear(mel)
        magnitude = self.weights @ target
        for _ in range(updates):
            magnitude = self._fit(magnitude, target)
        return magnitude

    def forward(
        self, mel: Float[Tensor, "b bins frames"], generator: RandomSource | None = None
    ) -> Float[Tensor, "b samples"]:
        """See :class:`Vocoder`. Without a generator a row sounds the same alone and padded, but for its last frames."""
        config = self.config
        if mel.shape[1] != config.bins:
            raise UserError(f"Griffin-Lim is set to {config.bins} mel bins and was given {mel.shape[1]}")
        with torch.no_grad():
            # Our frames are centred hop / 2 after the grid k * hop of a centred transform. One more frame on each side
            # covers both ends, and the surplus of hop / 2 samples is cut off.
            wide = nn.functional.pad(mel.float(), (1, 1), mode="replicate")
            target, magnitude = _linear(wide), self.magnitude(wide)
            phase = _phase(magnitude, generator or Rows(0))
            before = torch.zeros_like(phase)
            for i in range(self.iterations):
                spectrum = self._stft(self._istft(magnitude * phase))
                if i >= self.settle:
                    magnitude = self._fit(spectrum.abs(), target)
                ahead = spectrum - before * (self.momentum / (1.0 + self.momentum))
                before = spectrum
                phase = ahead / ahead.abs().clamp_min(1e-16)
            wave = self._istft(magnitude * phase)
        return wave[:, config.hop // 2 : config.hop // 2 + mel.shape[2] * config.hop]

    def _istft(self, spectrum: Complex[Tensor, "b frequencies frames"]) -> Float[Tensor, "b samples"]:
        config = self.config
        length = (spectrum.shape[-1] - 1) * config.hop
        return torch.istft(spectrum, config.n_fft, config.hop, config.win, self.window, length=length)

    def _stft(self, wave: Float[Tensor, "b samples"]) -> Complex[Tensor, "b frequencies frames"]:
        config = self.config
        return torch.stft(
            wave, config.n_fft, config.hop, config.win, self.window, pad_mode="constant", return_complex=True
        )


def _linear(mel: Tensor) -> Tensor:
    """Mel magnitudes; a wild network's output cannot overflow."""
    return mel.float().clamp_max(10.0).exp()


def _phase(like: Tensor, generator: RandomSource) -> Tensor:
    """Uniform phases, drawn frame by frame so that padding at the end changes none."""
    turns = uniform(tuple(like.shape), generator, device=like.device)
    return torch.polar(torch.ones_like(turns), turns * (2 * math.pi))
