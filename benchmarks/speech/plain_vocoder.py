"""The vocoder behind the anchor figures: the filters' pseudo-inverse and 60 iterations of torchaudio's Griffin-Lim.

FlowKit's own Griffin-Lim is better; a comparison with figures that were made with this one needs it on both sides.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from domains.speech.features import MelConfig, mel_filters
from domains.speech.vocoder import Vocoder
from flowkit.random import RandomSource


class PlainGriffinLim(Vocoder):
    """Griffin-Lim without care for the magnitudes; phases start from seed 0.

    Args:
        config: settings of the mels.
    """

    inverse: Tensor

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        from torchaudio.transforms import GriffinLim

        self.config = config
        self.register_buffer("inverse", torch.linalg.pinv(mel_filters(config)), persistent=False)
        self.search = GriffinLim(config.n_fft, 60, config.win, config.hop, power=1.0, momentum=0.99)

    def forward(
        self, mel: Float[Tensor, "b bins frames"], generator: RandomSource | None = None
    ) -> Float[Tensor, "b samples"]:
        """See :class:`Vocoder`; torchaudio takes its noise from torch's global state, seeded here and put back."""
        del generator
        magnitude = (self.inverse @ mel.exp()).clamp_min(0.0)
        with torch.random.fork_rng(devices=[mel.device] if mel.is_cuda else []):
            torch.manual_seed(0)
            return self.search(magnitude)
