"""The power path x_t = t^n x1 + (1 - t^n) x0: the straight lines of the linear path at another speed."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.errors import UserError
from flowkit.paths.affine import AffinePath, Coefficients, Inversion

__all__ = ["PowerPath"]


class PowerPath(AffinePath):
    """alpha = t^n, sigma = 1 - t^n, D = n t^(n - 1).

    For n > 1 the velocity at t = 0 is 0 and holds nothing of x1: the conversion to data returns 0 there,
    the limit for centred data.

    Args:
        exponent: n >= 1 (below 1 the speed at t = 0 would be infinite).
    """

    def __init__(self, exponent: float = 2.0) -> None:
        if not 1.0 <= exponent < math.inf:
            raise UserError(f"PowerPath: exponent must be 1 or more, got {exponent}")
        self.exponent = exponent

    def _sigma(self, t: Tensor) -> Tensor:
        # expm1: accurate near t = 1; log(0) = -inf gives exactly 1 at t = 0.
        return -torch.expm1(self.exponent * t.log())

    def coefficients(self, t: Float[Tensor, " *b"]) -> Coefficients:
        speed = self.exponent * t ** (self.exponent - 1.0)
        return Coefficients(t**self.exponent, self._sigma(t), speed, -speed)

    def half_log_snr(self, t: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        return self.exponent * t.log() - self._sigma(t).log()

    def time_of(self, half_log_snr: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        return torch.sigmoid(half_log_snr) ** (1.0 / self.exponent)

    def wronskian(self, t: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        return self.exponent * t ** (self.exponent - 1.0)

    def inversion(self, t: Float[Tensor, " *b"]) -> Inversion:
        one, speed = torch.ones_like(t), self.exponent * t ** (self.exponent - 1.0)
        still = speed < torch.finfo(t.dtype).tiny
        data_v = torch.where(still, 0.0, self._sigma(t) / speed.masked_fill(still, 1.0))
        return Inversion(torch.where(still, 0.0, one), data_v, one, t / -self.exponent)

    def __repr__(self) -> str:
        return f"PowerPath(exponent={self.exponent:g})"
