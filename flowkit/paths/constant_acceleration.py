"""The parabola through x0 and x1 with a given initial velocity: constant acceleration.

x_t = x0 + v0 t + a t^2 / 2 with a = 2 (x1 - x0) - 2 v0, so x_t = (1 - t^2) x0 + t^2 x1 + (t - t^2) v0. Park et al.
2024, "Constant Acceleration Flow" (arXiv 2411.00322).
"""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from flowkit.errors import UserError
from flowkit.paths.path import Path, Point
from flowkit.tensors import like

__all__ = ["ConstantAccelerationPath"]


class ConstantAccelerationPath(Path):
    """Parabolas; ``aux`` is the initial velocity v0 (b, *d), by default ``speed`` (x1 - x0).

    Args:
        speed: h, positive: 1 keeps the speed, above 1 slows down towards the data, below 1 speeds up.
    """

    def __init__(self, speed: float = 1.5) -> None:
        if not (math.isfinite(speed) and speed > 0.0):
            raise UserError(f"ConstantAccelerationPath: speed must be positive, got {speed}")
        self.speed = speed

    def initial_velocity(self, x0: Float[Tensor, "b *d"], x1: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """h (x1 - x0)."""
        return self.speed * (x1 - x0)

    def acceleration(
        self, x0: Float[Tensor, "b *d"], x1: Float[Tensor, "b *d"], v0: Float[Tensor, "b *d"]
    ) -> Float[Tensor, "b *d"]:
        """a = 2 (x1 - x0) - 2 v0: the constant one that leads from x0 to x1."""
        return 2.0 * (x1 - x0 - v0)

    def at(
        self, x0: Float[Tensor, "b *d"], x1: Float[Tensor, "b *d"], t: Float[Tensor, " b"], aux: Tensor | None = None
    ) -> Point:
        v0 = self.initial_velocity(x0, x1) if aux is None else aux
        s = like(t, x1)
        # As written, it is exact at both ends.
        xt = (1.0 - s * s) * x0 + (s * s) * x1 + (s - s * s) * v0
        return Point(x0, x1, t, xt, v0 + s * self.acceleration(x0, x1, v0))

    def __repr__(self) -> str:
        return f"ConstantAccelerationPath(speed={self.speed:g})"
