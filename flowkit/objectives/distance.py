"""How far an output is from its target: what regressions minimise, as a part that a recipe names."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from flowkit.errors import UserError
from flowkit.tensors import mean_per_sample, sum_per_sample

__all__ = ["Distance", "PseudoHuber", "SquaredError"]


class Distance(ABC):
    """A distance of each sample, over the elements that a mask keeps; a plugin may bring a perceptual one."""

    #: True when it compares estimates of the data x1 (pictures, mels) rather than what the network puts out.
    of_data: bool = False

    @abstractmethod
    def __call__(
        self, output: Float[Tensor, "b *d"], target: Float[Tensor, "b *d"], keep: Bool[Tensor, "b ..."] | None
    ) -> Float[Tensor, " b"]:
        """One number for each sample; what ``keep`` leaves out may hold anything."""


def _kept(output: Tensor, target: Tensor, keep: Tensor | None) -> Tensor:
    """The error, 0 where it does not count. Before any power: the derivative of a masked one is nan * 0."""
    error = output - target
    return error if keep is None else error.where(keep, error.new_zeros(()))


class SquaredError(Distance):
    """The mean of the squared errors."""

    def __call__(
        self, output: Float[Tensor, "b *d"], target: Float[Tensor, "b *d"], keep: Bool[Tensor, "b ..."] | None
    ) -> Float[Tensor, " b"]:
        return mean_per_sample(_kept(output, target, keep).square(), keep)

    def __repr__(self) -> str:
        return "SquaredError()"


class PseudoHuber(Distance):
    """sqrt(e^2 + c^2) - c: a square for small errors, their size for large ones, which then pull less.

    Song and Dhariwal 2023 (arXiv 2310.14189) introduced it for consistency models.

    Args:
        c: where the square turns into the size, in units of the error; positive.
        over: ``elements`` takes the mean over elements; ``samples`` has e the Euclidean norm of a sample of d elements,
            c d for c, and divides by d (Constant Acceleration Flow, with c = 0.00054).
    """

    def __init__(self, c: float = 0.00054, *, over: Literal["elements", "samples"] = "samples") -> None:
        if not (math.isfinite(c) and c > 0.0):
            raise UserError(f"PseudoHuber: c must be positive, got {c}")
        if over not in ("elements", "samples"):
            raise UserError(f"PseudoHuber: over={over!r}: known are elements and samples")
        self.c = c
        self.over: Literal["elements", "samples"] = over

    def __call__(
        self, output: Float[Tensor, "b *d"], target: Float[Tensor, "b *d"], keep: Bool[Tensor, "b ..."] | None
    ) -> Float[Tensor, " b"]:
        square = _kept(output, target, keep).square()
        if self.over == "elements":
            return mean_per_sample((square + self.c**2).sqrt() - self.c, keep)
        one = square.new_ones(())
        d = sum_per_sample(one.expand_as(square) if keep is None else keep.expand_as(square).to(square.dtype))
        d = d.clamp_min(1.0)
        return ((sum_per_sample(square) + (self.c * d).square()).sqrt() - self.c * d) / d

    def __repr__(self) -> str:
        return f"PseudoHuber(c={self.c:g}, over={self.over!r})"
