"""Layers over frames, channels last: (b, t, c) in, (b, t, c) out, with an optional mask of the real frames.

Convolutions are one matrix product over neighbouring frames, so a network of them needs no transposition between its
convolutions, its attention and its norms, and every shape runs at the speed of a matrix product. Masks are float
(b, t, 1), 1 on real frames; None means that every frame is real. A layer that mixes frames (convolution, group norm,
attention) reads real frames only: its output there is the same whatever the padding, which the official Matcha-TTS
code does not hold (its float mask is added to the logits and its norms read padding).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

FrameMask = Float[Tensor, "b t 1"] | None


def masked(x: Float[Tensor, "b t c"], mask: FrameMask) -> Float[Tensor, "b t c"]:
    """``x`` with zeros on padded frames."""
    return x if mask is None else x * mask


class Convolution(nn.Module):
    """A 1-D convolution of odd ``kernel`` over frames, zero-padded to the same length.

    ``stride`` 2 halves the length, rounded up. The input must be zero on padded frames. The weight is
    (out, kernel * in), oldest frame first.
    """

    def __init__(self, channels: int, out_channels: int, kernel: int = 3, *, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.linear = nn.Linear(kernel * channels, out_channels)

    def frames_of_weight(self) -> Float[Tensor, "out kernel c"]:
        """The weight, a view, frame by frame."""
        return self.linear.weight.unflatten(1, (self.kernel, -1))

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b s d"]:
        """Convolve."""
        if self.kernel == 1:
            return self.linear(x)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))  # once, not once per neighbour
        half, frames = self.kernel // 2, x.shape[1]
        x = F.pad(x, (0, 0, half, half))
        return self.linear(torch.cat([x[:, k : k + frames : self.stride] for k in range(self.kernel)], dim=2))


class Upsample(nn.Module):
    """The transposed convolution of kernel 4 and stride 2: (b, t, c) to (b, 2 t, c).

    The input must be zero on padded frames. Even frames read x[i] and x[i-1], odd ones x[i] and x[i+1]: two matrix
    products and an interleaving.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(4 * channels)
        self.even = nn.Parameter(torch.empty(channels, 2 * channels).uniform_(-bound, bound))
        self.odd = nn.Parameter(torch.empty(channels, 2 * channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b u c"]:
        """Twice as many frames."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        before, after = F.pad(x[:, :-1], (0, 0, 1, 0)), F.pad(x[:, 1:], (0, 0, 0, 1))
        even = F.linear(torch.cat([x, before], dim=2), self.even, self.bias)
        odd = F.linear(torch.cat([x, after], dim=2), self.odd, self.bias)
        return torch.stack([even, odd], dim=2).flatten(1, 2)


class MaskedGroupNorm(nn.Module):
    """Group normalisation whose statistics run over the real frames only, in float32."""

    def __init__(self, groups: int, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(
        self, x: Float[Tensor, "b t c"], mask: FrameMask, frames: Float[Tensor, "b 1"] | int
    ) -> Float[Tensor, "b t c"]:
        """``frames``: how many frames of each sample are real."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            real = masked(x, mask)
            per_channel = torch.stack([real.sum(1), (real * x).sum(1)])
            count = frames * (x.shape[2] // self.groups)
            mean, square = per_channel.unflatten(2, (self.groups, -1)).sum(3) / count
            # Activations behind a convolution have means of the order of their deviation: one pass is exact enough in
            # float32.
            inverse = torch.rsqrt((square - mean * mean).clamp_min(0.0) + self.eps)
            scale = inverse.unsqueeze(2) * self.weight.view(self.groups, -1)
            shift = self.bias.view(self.groups, -1) - mean.unsqueeze(2) * scale
            return torch.addcmul(shift.flatten(1).unsqueeze(1), x, scale.flatten(1).unsqueeze(1))


class SnakeBeta(nn.Module):
    """Linear, then y + sin(e^a y)^2 / (e^b + 1e-9) with learned a, b per channel (Ziyin et al., arXiv 2006.08195)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, out_channels)
        self.log_frequency = nn.Parameter(torch.zeros(out_channels))
        self.log_inverse_size = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t d"]:
        """Apply to every frame."""
        y = self.linear(x)
        # sin^2 z = (1 - cos 2z) / 2: one pass over the widest activation of the network less.
        half = 0.5 / (self.log_inverse_size.exp() + 1e-9)
        return torch.addcmul(y + half, torch.cos(y * (2.0 * self.log_frequency.exp())), half, value=-1.0)


class Attention(nn.Module):
    """Self-attention of ``heads`` heads of ``head_width`` channels; padded frames are never read (boolean mask).

    With ``angles`` (see :func:`rotary_angles`) the first channels of each head's queries and keys turn with the
    position.
    """

    def __init__(self, channels: int, heads: int, head_width: int, *, bias: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.head_width, self.dropout = heads, head_width, dropout
        self.to_qkv = nn.Linear(channels, 3 * heads * head_width, bias=bias)
        self.to_out = nn.Linear(heads * head_width, channels)

    def forward(
        self,
        x: Float[Tensor, "b t c"],
        real: Bool[Tensor, "b 1 1 t"] | None,
        angles: tuple[Tensor, Tensor] | None = None,
    ) -> Float[Tensor, "b t c"]:
        """``real``: which frames may be read; None for all."""
        query, key, value = self.to_qkv(x).unflatten(2, (3, self.heads, self.head_width)).permute(2, 0, 3, 1, 4)
        if angles is not None:
            query, key = rotate(query, *angles), rotate(key, *angles)
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=real, dropout_p=self.dropout if self.training else 0.0
        )
        return self.to_out(out.transpose(1, 2).flatten(2))


def rotary_angles(
    positions: int, channels: int, *, base: float = 10_000.0, device: torch.device | None = None
) -> tuple[Float[Tensor, "t d"], Float[Tensor, "t d"]]:
    """Cosines and sines (positions, channels / 2) of RoPE: the angle is position * base^(-2k / channels).

    Su et al., "RoFormer" (arXiv 2104.09864).
    """
    speed = base ** (-torch.arange(0, channels, 2, device=device, dtype=torch.float32) / channels)
    angle = torch.arange(positions, device=device, dtype=torch.float32).unsqueeze(1) * speed
    return angle.cos(), angle.sin()


def rotate(
    x: Float[Tensor, "b h t c"], cos: Float[Tensor, "t d"], sin: Float[Tensor, "t d"]
) -> Float[Tensor, "b h t c"]:
    """Turn the first 2d channels of ``x`` by the angles, pairing channel k with k + d; the others pass."""
    half = cos.shape[1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1).to(x.dtype)


def sinusoidal(t: Float[Tensor, " b"], width: int, *, scale: float = 1000.0) -> Float[Tensor, "b w"]:
    """Sines, then cosines, of scale * t * 10000^(-k / (width/2 - 1)); ``width`` is even."""
    half = width // 2
    speed = torch.exp(
        torch.arange(half, device=t.device, dtype=torch.float32) * (-math.log(10_000.0) / max(half - 1, 1))
    )
    angle = scale * t.float().unsqueeze(1) * speed
    return torch.cat([angle.sin(), angle.cos()], dim=1)
