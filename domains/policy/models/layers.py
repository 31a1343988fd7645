"""Small layers that the networks of policies share."""

from __future__ import annotations

import itertools
import math

import torch
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
