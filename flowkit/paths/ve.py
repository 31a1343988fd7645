"""The variance-exploding path x_t = x1 + sigma_t x0 with geometric sigma, sigma_max at t = 0 and sigma_min at t = 1.

Song et al. 2020 (arXiv 2011.13456), equation 31, with time turned round; as a flow: Lipman et al. 2022 (arXiv
2210.02747), section 4.1.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.paths.affine import AffinePath, Coefficients, Inversion

__all__ = ["VEPath"]


class VEPath(AffinePath):
    """alpha = 1, sigma = sigma_max (sigma_min / sigma_max)^t. x0 is a draw of N(0, I); sampling starts at sigma_max x0.

    The start leaves the data out: it is right up to sigma_max much larger than the data. The path ends at x1 +
    sigma_min x0.

    Args:
        sigma_min, sigma_max: 0 < sigma_min < sigma_max, in units of the data.
    """

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        if not 0.0 < sigma_min < sigma_max < math.inf:
            raise UserError(f"VEPath: 0 < sigma_min < sigma_max is needed, got {sigma_min} and {sigma_max}")
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self._rate = math.log(sigma_max / sigma_min)

    def start(self, x0: Float[Tensor, "b *d"], cond: Cond | None = None) -> Float[Tensor, "b *d"]:
        return self.sigma_max * x0

    def coefficients(self, t: Float[Tensor, " *b"]) -> Coefficients:
        sigma = self.sigma_max * torch.exp(-self._rate * t)
        return Coefficients(torch.ones_like(t), sigma, torch.zeros_like(t), -self._rate * sigma)

    def half_log_snr(self, t: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        return self._rate * t - math.log(self.sigma_max)

    def time_of(self, half_log_snr: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        return ((half_log_snr + math.log(self.sigma_max)) / self._rate).clamp(0.0, 1.0)

    def inversion(self, t: Float[Tensor, " *b"]) -> Inversion:
        one, sigma = torch.ones_like(t), self.sigma_max * torch.exp(-self._rate * t)
        return Inversion(one, one / self._rate, torch.zeros_like(t), -1.0 / (self._rate * sigma))

    def __repr__(self) -> str:
        return f"VEPath(sigma_min={self.sigma_min:g}, sigma_max={self.sigma_max:g})"
