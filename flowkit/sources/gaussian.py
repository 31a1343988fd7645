"""Gaussian laws of x0: standard, scaled, and diagonal with the mean and deviation read from the condition."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.random import RandomSource, normal_like
from flowkit.sources.source import Source
from flowkit.tensors import sum_per_sample

__all__ = ["DiagonalGaussian", "Gaussian", "ScaledGaussian"]

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


def _unpadded_sum(values: Tensor, cond: Cond) -> Tensor:
    return sum_per_sample(cond.real(values))


class Gaussian(Source):
    """The standard normal N(0, I), independent of data and condition."""

    standard_normal = True

    def draw(
        self, like: Float[Tensor, "b *d"], cond: Cond, generator: RandomSource | None, *, temperature: float = 1.0
    ) -> Float[Tensor, "b *d"]:
        x0 = normal_like(like, generator)
        return x0 if temperature == 1.0 else x0 * temperature

    def log_prob(self, x0: Float[Tensor, "b *d"], cond: Cond) -> Float[Tensor, " b"]:
        return _unpadded_sum(-0.5 * x0.square() - _LOG_SQRT_2PI, cond)

    def moments(self, cond: Cond) -> tuple[Tensor | float, Tensor | float]:
        """0 and 1."""
        return 0.0, 1.0

    def __repr__(self) -> str:
        return "Gaussian()"


class ScaledGaussian(Source):
    """N(mean, scale^2 I), independent of data and condition. Scores are refused even at scale 1: use :class:`Gaussian`.

    Args:
        scale: deviation, positive.
        mean: one number for all elements.
    """

    def __init__(self, scale: float = 1.0, mean: float = 0.0) -> None:
        if not (math.isfinite(scale) and scale > 0.0):
            raise UserError(f"ScaledGaussian: scale must be positive, got {scale}")
        self.scale = scale
        self.mean = mean

    def draw(
        self, like: Float[Tensor, "b *d"], cond: Cond, generator: RandomSource | None, *, temperature: float = 1.0
    ) -> Float[Tensor, "b *d"]:
        return self.mean + (self.scale * temperature) * normal_like(like, generator)

    def log_prob(self, x0: Float[Tensor, "b *d"], cond: Cond) -> Float[Tensor, " b"]:
        z = (x0 - self.mean) / self.scale
        return _unpadded_sum(-0.5 * z.square() - (_LOG_SQRT_2PI + math.log(self.scale)), cond)

    def moments(self, cond: Cond) -> tuple[Tensor | float, Tensor | float]:
        """``mean`` and ``scale``."""
        return self.mean, self.scale

    def __repr__(self) -> str:
        return f"ScaledGaussian(scale={self.scale:g}, mean={self.mean:g})"


class DiagonalGaussian(Source):
    """N(mean(cond), deviation(cond)^2), both read from the condition (PriorGrad, Lee et al. 2021, arXiv 2106.06406).

    Args:
        mean: name of the condition that holds the mean, broadcastable to the state.
        deviation: name of the condition that holds the deviation (positive), or None: 1.
    """

    def __init__(self, mean: str = "prior_mean", deviation: str | None = None) -> None:
        self.mean = mean
        self.deviation = deviation

    def draw(
        self, like: Float[Tensor, "b *d"], cond: Cond, generator: RandomSource | None, *, temperature: float = 1.0
    ) -> Float[Tensor, "b *d"]:
        noise = normal_like(like, generator)
        if temperature != 1.0:
            noise = noise * temperature
        return cond[self.mean] + (noise if self.deviation is None else cond[self.deviation] * noise)

    def log_prob(self, x0: Float[Tensor, "b *d"], cond: Cond) -> Float[Tensor, " b"]:
        z = x0 - cond[self.mean]
        if self.deviation is None:
            return _unpadded_sum(-0.5 * z.square() - _LOG_SQRT_2PI, cond)
        deviation = cond[self.deviation]
        return _unpadded_sum(-0.5 * (z / deviation).square() - deviation.log() - _LOG_SQRT_2PI, cond)

    def moments(self, cond: Cond) -> tuple[Tensor | float, Tensor | float]:
        """Those of the condition."""
        return cond[self.mean], 1.0 if self.deviation is None else cond[self.deviation]

    def __repr__(self) -> str:
        return f"DiagonalGaussian(mean={self.mean!r}, deviation={self.deviation!r})"
