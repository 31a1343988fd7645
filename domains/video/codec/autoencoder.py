"""A convolutional VQ autoencoder of frames, as in VQGAN.

Esser, Rombach and Ommer 2021, "Taming Transformers for High-Resolution Image Synthesis" (arXiv 2012.09841). The
*latent* is the encoder's output before quantisation, as RIVER takes it; decoding quantises first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from domains.video.codec.quantiser import VectorQuantiser
from flowkit.errors import UserError


def _norm(channels: int) -> nn.GroupNorm:
    """At most 32 groups, of at least 4 channels where there are so many."""
    return nn.GroupNorm(math.gcd(channels, min(32, max(channels // 4, 1))), channels, eps=1e-6)


class Residual(nn.Module):
    """Twice group norm, SiLU and a 3 x 3 convolution, beside the input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _norm(inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1),
            _norm(outputs), nn.SiLU(), nn.Conv2d(outputs, outputs, 3, padding=1),
        )  # fmt: skip
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """The sum."""
        return self.skip(x) + self.body(x)


class Attention(nn.Module):
    """Self-attention among all pixels, one head, beside the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.qkv, self.out = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The sum."""
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)[:, None].chunk(3, -1)
        seen = F.scaled_dot_product_attention(q, k, v)[:, 0]
        return x + self.out(seen.transpose(1, 2).unflatten(2, x.shape[2:]))


class Halve(nn.Module):
    """A convolution of stride 2; the border is added below and to the right, so that even sizes halve."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c H W"]:
        """Half the height and width."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Double(nn.Module):
    """Each pixel four times, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c H W"]:
        """Twice the height and width."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _middle(channels: int, attention: bool) -> list[nn.Module]:
    between = [Attention(channels)] if attention else []
    return [Residual(channels, channels), *between, Residual(channels, channels)]


class VQAutoencoder(nn.Module):
    """Frames in [-1, 1] to latents and back.

    Height and width shrink by ``factor`` = 2 ** (len(channels) - 1). The defaults take 64 x 64 frames to latents of
    4 x 8 x 8, with 15.6 million parameters; ``channels: [32, 64, 64, 96]`` with ``depth: 1`` has 2.0 million.

    Args:
        channels: of each resolution, the frame's own first.
        depth: residual blocks at each resolution; the decoder has one more.
        latent: channels of a latent.
        codes: vectors in the codebook.
        colours: channels of a frame.
        attention: self-attention at the lowest resolution.
        update, decay, patience: of the codebook; see :class:`VectorQuantiser`.

    Raises:
        UserError: a number out of range.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int] = (64, 128, 128, 256),
        depth: int = 2,
        latent: int = 4,
        codes: int = 4096,
        colours: int = 3,
        attention: bool = True,
        update: Literal["average", "gradient"] = "average",
        decay: float = 0.99,
        patience: int = 100,
    ) -> None:
        super().__init__()
        if not channels or min(channels) < 1 or min(depth, latent, colours) < 1:
            raise UserError(
                f"VQAutoencoder: channels {list(channels)} are one or more positive numbers; depth, latent and colours "
                "are at least 1"
            )
        self.channels, self.depth, self.latent, self.codes, self.colours = list(channels), depth, latent, codes, colours
        self.attention = attention
        down: list[nn.Module] = [nn.Conv2d(colours, channels[0], 3, padding=1)]
        width = channels[0]
        for level, wanted in enumerate(channels):
            if level:
                down.append(Halve(width))
            for _ in range(depth):
                down.append(Residual(width, wanted))
                width = wanted
        down += [*_middle(width, attention), _norm(width), nn.SiLU(), nn.Conv2d(width, latent, 3, padding=1)]
        up: list[nn.Module] = [nn.Conv2d(latent, width, 3, padding=1), *_middle(width, attention)]
        for level, wanted in enumerate(reversed(channels)):
            if level:
                up.append(Double(width))
            for _ in range(depth + 1):
                up.append(Residual(width, wanted))
                width = wanted
        up += [_norm(width), nn.SiLU(), nn.Conv2d(width, colours, 3, padding=1)]
        self.encoder, self.decoder = nn.Sequential(*down), nn.Sequential(*up)
        self.quantiser = VectorQuantiser(codes, latent, update=update, decay=decay, patience=patience)
        self.update, self.decay, self.patience = update, decay, patience

    @property
    def factor(self) -> int:
        """Pixels of a frame to a pixel of its latent, along each side."""
        return 2 ** (len(self.channels) - 1)

    def shape(self, colours: int, height: int, width: int) -> tuple[int, int, int]:
        """(C, H, W) of the latent of such a frame.

        Raises:
            UserError: the frame has other channels, or sides that do not divide by :attr:`factor`.
        """
        if colours != self.colours:
            raise UserError(f"the autoencoder reads frames of {self.colours} channels, not {colours}: see its colours")
        if height % self.factor or width % self.factor or min(height, width) < self.factor:
            raise UserError(
                f"frames of {height} x {width} do not divide by the autoencoder's factor {self.factor} "
                f"(2 to the power of len(channels) - 1 = {len(self.channels) - 1}): choose a size that does"
            )
        return self.latent, height // self.factor, width // self.factor

    def encode(self, frames: Float[Tensor, "b c h w"]) -> Float[Tensor, "b C H W"]:
        """Latents, before quantisation."""
        return self.encoder(frames)

    def quantise(self, latents: Float[Tensor, "b C H W"]) -> Float[Tensor, "b C H W"]:
        """The nearest codes' vectors."""
        return self.quantiser.vectors(self.quantiser.codes_of(latents)).to(latents.dtype)

    def decode(self, latents: Float[Tensor, "b C H W"]) -> Float[Tensor, "b c h w"]:
        """Frames, about in [-1, 1], of latents that are quantised first."""
        return self.decoder(self.quantise(latents))
