"""Strictly convex costs c(x) of a displacement, their conjugates c*(y) = sup_x y.x - c(x), and grad c*.

The gradient of the conjugate is the inverse of the gradient of the cost. Quadratic: c = |x|^2 / 2 = c*. Power p > 1: c
= |x|^p / p, c* = |y|^q / q with 1/p + 1/q = 1. Quadratic form: c = x^T H x / 2, c* = y^T H^-1 y / 2.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.errors import UserError
from flowkit.tensors import like, sum_per_sample

__all__ = ["ConvexCost", "PowerCost", "QuadraticCost", "QuadraticForm"]


class ConvexCost(ABC):
    """A cost of each sample (b, *d) -> (b,), least at 0, where it is 0."""

    @abstractmethod
    def value(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, " b"]:
        """c(x)."""

    @abstractmethod
    def conjugate(self, y: Float[Tensor, "b *d"]) -> Float[Tensor, " b"]:
        """c*(y)."""

    @abstractmethod
    def conjugate_gradient(self, y: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """grad c*(y): the displacement whose cost has the gradient y."""

    def gap(self, y: Float[Tensor, "b *d"], x: Float[Tensor, "b *d"]) -> Float[Tensor, " b"]:
        """c*(y) - y.x + c(x) >= 0, zero exactly where x = grad c*(y) (Fenchel and Young)."""
        return self.conjugate(y) - sum_per_sample(y * x) + self.value(x)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class QuadraticCost(ConvexCost):
    """|x|^2 / 2: the usual optimal transport."""

    def value(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, " b"]:
        return 0.5 * sum_per_sample(x.square())

    def conjugate(self, y: Float[Tensor, "b *d"]) -> Float[Tensor, " b"]:
        return self.value(y)

    def conjugate_gradient(self, y: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        return y

    def gap(self, y: Float[Tensor, "b *d"], x: Float[Tensor, "b *d"]) -> Float[Tensor, " b"]:
        return self.value(y - x)  # the same, without cancellation


class PowerCost(ConvexCost):
    """|x|^p / p of the Euclidean norm.

    Args:
        power: p, above 1.
    """

    def __init__(self, power: float = 4.0) -> None:
        if not (math.isfinite(power) and power > 1.0):
            raise UserError(f"PowerCost: power must be above 1, got {power}")
        self.power, self._dual = power, power / (power - 1.0)

    def value(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, " b"]:
        return _square(x) ** (0.5 * self.power) / self.power

    def conjugate(self, y: Float[Tensor, "b *d"]) -> Float[Tensor, " b"]:
        return _square(y) ** (0.5 * self._dual) / self._dual

    def conjugate_gradient(self, y: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        return like(_square(y) ** (0.5 * self._dual - 1.0), y) * y

    def __repr__(self) -> str:
        return f"PowerCost(power={self.power:g})"


class QuadraticForm(ConvexCost):
    """x^T H x / 2 of the flattened sample.

    Args:
        matrix: H, its rows; symmetric and positive definite.
    """

    def __init__(self, matrix: list[list[float]]) -> None:
        h = torch.tensor(matrix, dtype=torch.float64)
        if h.ndim != 2 or h.shape[0] != h.shape[1] or not torch.allclose(h, h.T):
            raise UserError(f"QuadraticForm: the matrix must be symmetric, got {matrix}")
        if float(torch.linalg.eigvalsh(h).min()) <= 0.0:
            raise UserError(f"QuadraticForm: the matrix must be positive definite, got {matrix}")
        self.matrix = matrix
        self._matrix, self._inverse = h, torch.linalg.inv(h)

    def _apply(self, matrix: Tensor, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        if flat.shape[1] != len(matrix):
            raise UserError(f"QuadraticForm: a sample has {flat.shape[1]} elements, the matrix {len(matrix)} rows")
        return (flat @ matrix.to(flat)).reshape(x.shape)

    def value(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, " b"]:
        return 0.5 * sum_per_sample(x * self._apply(self._matrix, x))

    def conjugate(self, y: Float[Tensor, "b *d"]) -> Float[Tensor, " b"]:
        return 0.5 * sum_per_sample(y * self.conjugate_gradient(y))

    def conjugate_gradient(self, y: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        return self._apply(self._inverse, y)

    def __repr__(self) -> str:
        return f"QuadraticForm({self._matrix.tolist()})"


def _square(x: Tensor) -> Float[Tensor, " b"]:
    """|x|^2, kept off 0, where powers below 1 have no derivative."""
    return sum_per_sample(x.square()) + torch.finfo(x.dtype).tiny ** 0.5
