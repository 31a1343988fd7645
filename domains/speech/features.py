"""Log-mel features of speech, the recipe that Matcha-TTS and its vocoders share.

Reflect padding of (n_fft - hop) / 2 on both sides and no centring, so L samples give floor(L / hop) frames; magnitude
sqrt(re^2 + im^2 + 1e-9); Slaney's mel filters with Slaney's norm; natural log, clamped from below. (Matcha-TTS: A fast
TTS architecture with conditional flow matching, arXiv 2309.03199; the features of HiFi-GAN, arXiv 2010.05646.)
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowkit.errors import UserError


@dataclass(frozen=True)
class MelConfig:
    """Settings of the log-mel spectrogram. Frequencies in Hz, lengths in samples.

    Args:
        sample_rate: samples per second.
        n_fft: length of the Fourier transform.
        win: length of the Hann window, at most ``n_fft``.
        hop: samples between frames.
        bins: mel bins.
        f_min: lower edge of the first filter.
        f_max: upper edge of the last filter, at most half the sample rate.
        floor: smallest mel magnitude before the logarithm.
    """

    sample_rate: int = 22050
    n_fft: int = 1024
    win: int = 1024
    hop: int = 256
    bins: int = 80
    f_min: float = 0.0
    f_max: float = 8000.0
    floor: float = 1e-5

    def check(self) -> None:
        """Raise ``UserError`` for settings that contradict each other."""
        if min(self.sample_rate, self.n_fft, self.win, self.hop, self.bins) < 1 or self.floor <= 0:
            raise UserError(f"mel settings must be positive, got {self}")
        if not 0 <= self.f_min < self.f_max <= self.sample_rate / 2:
            raise UserError(
                f"mel f_min={self.f_min} and f_max={self.f_max} must satisfy 0 <= f_min < f_max <= sample_rate / 2 = "
                f"{self.sample_rate / 2:g}"
            )
        if self.win > self.n_fft or self.hop > self.win or (self.n_fft - self.hop) % 2:
            raise UserError(
                f"mel needs hop <= win <= n_fft and an even n_fft - hop, got hop={self.hop}, win={self.win}, "
                f"n_fft={self.n_fft}"
            )

    @property
    def padding(self) -> int:
        """Samples of reflection added on each side."""
        return (self.n_fft - self.hop) // 2

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop

    def frames(self, samples: int) -> int:
        """Frames that ``samples`` samples give."""
        return (samples + 2 * self.padding - self.n_fft) // self.hop + 1


def mel_filters(config: MelConfig) -> Float[Tensor, "bins frequencies"]:
    """Slaney's triangular filters with Slaney's norm (unit area in Hz); equal to librosa's."""
    from torchaudio.functional import melscale_fbanks

    config.check()
    with warnings.catch_warnings():
        # Narrow low filters may hold no frequency at small n_fft; librosa keeps them too.
        warnings.simplefilter("ignore")
        filters = melscale_fbanks(
            config.n_fft // 2 + 1, config.f_min, config.f_max, config.bins, config.sample_rate, "slaney", "slaney"
        )
    return filters.T.contiguous()


class MelSpectrogram(nn.Module):
    """Waveform to log-mel, differentiable.

    Args:
        config: the settings; kept as ``.config``.
    """

    filters: Tensor
    window: Tensor

    def __init__(self, config: MelConfig | None = None) -> None:
        super().__init__()
        self.config = config or MelConfig()
        self.register_buffer("filters", mel_filters(self.config), persistent=False)
        self.register_buffer("window", torch.hann_window(self.config.win), persistent=False)

    def magnitude(self, wave: Float[Tensor, "b samples"]) -> Float[Tensor, "b frequencies frames"]:
        """Magnitudes sqrt(re^2 + im^2 + 1e-9) of the padded, uncentred short-time Fourier transform."""
        config = self.config
        if wave.shape[-1] <= config.padding:
            raise UserError(
                f"a waveform of {wave.shape[-1]} samples is too short for a mel spectrogram, which needs "
                f"{config.padding + 1}"
            )
        padded = nn.functional.pad(wave.unsqueeze(1), (config.padding, config.padding), mode="reflect").squeeze(1)
        spectrum = torch.stft(
            padded, config.n_fft, config.hop, config.win, self.window, center=False, onesided=True, return_complex=True
        )
        return torch.view_as_real(spectrum).square().sum(-1).add(1e-9).sqrt()

    def forward(self, wave: Float[Tensor, "b samples"]) -> Float[Tensor, "b bins frames"]:
        """Log-mel of ``wave`` (values in [-1, 1]); samples // hop frames."""
        return (self.filters @ self.magnitude(wave)).clamp_min(self.config.floor).log()
