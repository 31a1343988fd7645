"""Training times that favour the noise end: p(t) proportional to base^(1 - t)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.errors import UserError
from flowkit.paths.path import Path
from flowkit.random import RandomSource, uniform
from flowkit.times.law import TimeLaw, Times

__all__ = ["ExponentialTimes"]


class ExponentialTimes(TimeLaw):
    """p(t) = log(base) base^(1 - t) / (base - 1), drawn as t = 1 - log(1 + (base - 1) U) / log(base).

    Kim et al. 2024, "Simple ReFlow" (arXiv 2410.07815), whose time is the noise fraction u = 1 - t: density 10^u. Half
    of the times lie below 0.26 for base 10.

    Args:
        base: above 1; larger values move the times toward the noise.
    """

    def __init__(self, base: float = 10.0) -> None:
        if not (math.isfinite(base) and base > 1.0):
            raise UserError(f"ExponentialTimes: base must be above 1, got {base}")
        self.base = base

    def draw(self, n: int, path: Path, generator: RandomSource | None, *, device: torch.device | str = "cpu") -> Times:
        u = uniform((n,), generator, device=device)
        t = (1.0 - torch.log1p((self.base - 1.0) * u) / math.log(self.base)).clamp(0.0, 1.0)
        return Times(t, torch.ones_like(t))

    def density(self, t: Float[Tensor, " *b"], path: Path) -> Float[Tensor, " *b"]:
        inside = ((t >= 0.0) & (t <= 1.0)).to(t.dtype)
        return inside * math.log(self.base) / (self.base - 1.0) * self.base ** (1.0 - t)

    def __repr__(self) -> str:
        return f"ExponentialTimes(base={self.base:g})"
