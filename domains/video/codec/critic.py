"""A critic of patches: tells frames of the data from those that passed through the codec.

Isola et al. 2016, "Image-to-Image Translation with Conditional Adversarial Networks" (arXiv 1611.07004), trained
with the hinge loss, as in VQGAN. Its weight in the codec's loss is a constant, where VQGAN balances gradients at every
step.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Critic(nn.Module):
    """Three strided convolutions: each output judges a patch of 22 pixels; large is real.

    Args:
        colours: channels of a frame.
        channels: of the first layer; the next have twice and four times as many.
    """

    def __init__(self, colours: int, channels: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(colours, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for width in (channels, 2 * channels):
            layers += [nn.Conv2d(width, 2 * width, 4, stride=2 if width == channels else 1, padding=1)]
            layers += [nn.GroupNorm(1, 2 * width), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers, nn.Conv2d(4 * channels, 1, 3, padding=1))

    def forward(self, frames: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 H W"]:
        """The verdicts on all patches."""
        return self.body(frames).float()

    def loss(self, made: Float[Tensor, "n c h w"], true: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        """Hinge loss of each pair: 1 where the critic knows nothing, 0 where it is sure and right."""
        wrong = F.relu(1.0 + self(made)) + F.relu(1.0 - self(true))
        return 0.5 * wrong.flatten(1).mean(1)
