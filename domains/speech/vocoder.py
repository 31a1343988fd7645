"""From log-mel to sound: the :class:`Vocoder` interface, and Griffin-Lim, which needs no training."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowkit.random import RandomSource, uniform

from domains.speech.features import MelConfig, mel_filters


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
    """Phases by fast Griffin-Lim, magnitudes by a smooth non-negative inverse of the mel filters.

    The magnitude begins as the mel spread back over each filter and is mended by multiplicative updates, which keep it positive and
    make its mel approach the given one (Lee and Seung 2001: the least-squares rule, applied to relative errors). Then the accelerated
    iteration of Perraudin, Balazs and Soendergaard (2013), "A fast Griffin-Lim algorithm".

    Args:
        mel: settings of the mels; part of the recipe, not of the weights.
        iterations: of the phase search.
        momentum: in [0, 1); 0 is plain Griffin-Lim.
        updates: of the magnitude search.
    """

    window: Tensor
    filters: Tensor
    spread: Tensor

    def __init__(
        self, mel: MelConfig | None = None, iterations: int = 60, momentum: float = 0.99, updates: int = 20
    ) -> None:
        super().__init__()
        self.config = mel or MelConfig()
        self.iterations, self.momentum, self.updates = iterations, momentum, updates
        filters = mel_filters(self.config)
        self.register_buffer("filters", filters, persistent=False)
        # Row b of ``spread`` sends mel b, divided by the filter's sum, to the filter's frequencies.
        cover = filters.sum(0).clamp_min(1e-8)
        self.register_buffer("spread", (filters / filters.sum(1, keepdim=True).clamp_min(1e-8) / cover).T, persistent=False)
        self.register_buffer("window", torch.hann_window(self.config.win), persistent=False)

    def magnitude(self, mel: Float[Tensor, "b bins frames"]) -> Float[Tensor, "b frequencies frames"]:
        """Non-negative magnitudes whose mel is near ``exp(mel)``."""
        target = mel.float().exp()
        magnitude = self.spread @ target
        for _ in range(self.updates):
            # Ratios instead of differences: quiet frames converge as fast as loud ones.
            ratio = target / (self.filters @ magnitude).clamp_min(1e-10)
            magnitude = magnitude * (self._weights @ ratio)
        return magnitude

    @property
    def _weights(self) -> Tensor:
        weights = self.filters.T
        return weights / weights.sum(1, keepdim=True).clamp_min(1e-8)
