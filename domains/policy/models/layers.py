"""Small layers that the networks of policies share."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowkit.errors import UserError


class Sinusoids(nn.Module):
    """Sines and cosines of a time at ``count`` / 2 angular frequencies, geometric from ``highest`` to ``lowest``.

    Raises:
        UserError: ``count`` is odd or below 4.
    """

    frequencies: Tensor
    shift: Tensor

    def __init__(self, count: int, *, highest: float = 100.0, lowest: float = 1.0) -> None:
        super().__init__()
        if count < 4 or count % 2:
            raise UserError(f"the number of sinusoids must be even and at least 4, not {count}")
        exponents = torch.linspace(0.0, 1.0, count // 2, dtype=torch.float64)
        frequencies = highest * (lowest / highest) ** exponents
        # cos x = sin (x + pi / 2): one sine for both, for in small networks every kernel counts.
        self.register_buffer("frequencies", frequencies.repeat(2).float(), persistent=False)
        shift = torch.tensor([0.0, math.pi / 2]).repeat_interleave(count // 2)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b n"]:
        """The code of ``t``, computed in float32 at least."""
        t = t.to(torch.promote_types(t.dtype, torch.float32))
        return torch.addcmul(self.shift, t[:, None], self.frequencies).sin_()


class Convolution(nn.Conv1d):
    """A convolution of odd ``kernel`` over the steps of a chunk, zero-padded to the same length, as one matrix product.

    Chunks are short (4 to 16 steps) and their channels many, where convolution kernels waste most of their work.
    Weights are those of :class:`torch.nn.Conv1d`.
    """

    def __init__(self, channels: int, out_channels: int, kernel: int) -> None:
        super().__init__(channels, out_channels, kernel, padding=kernel // 2)

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b d t"]:
        """Convolve."""
        if torch.compiler.is_exporting():
            return super().forward(x)  # the plain operator, which every runtime knows
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))  # before each step is copied ``kernel`` times
        half = self.kernel_size[0] // 2
        around = F.pad(x, (half, half)).unfold(2, self.kernel_size[0], 1).transpose(1, 2).flatten(2)
        return F.linear(around, self.weight.flatten(1), self.bias).transpose(1, 2)


def perceptron(read: int, width: int, depth: int, out: int) -> nn.Sequential:
    """``depth`` hidden layers of ``width`` with SiLU, and a linear layer."""
    sizes = [read] + [width] * depth
    layers: list[nn.Module] = []
    for size, following in itertools.pairwise(sizes):
        layers += [nn.Linear(size, following), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], out))


def group_count(channels: int, wanted: int) -> int:
    """The largest number of groups up to ``wanted`` that divides ``channels``."""
    return math.gcd(channels, wanted)
