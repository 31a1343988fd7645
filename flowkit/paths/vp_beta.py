"""The variance-preserving path of diffusion models with a linear beta schedule.

With u = 1 - t, beta(u) = b0 + (b1 - b0) u and T(u) = b0 u + (b1 - b0) u^2 / 2: alpha = exp(-T / 2), sigma = sqrt(1 -
exp(-T)). Song et al. 2020, "Score-Based Generative Modeling through SDEs" (arXiv 2011.13456), equation 33, with time
turned round.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from flowkit.errors import UserError
from flowkit.paths.affine import AffinePath, Coefficients, Inversion

__all__ = ["VPBetaPath"]


class VPBetaPath(AffinePath):
    """alpha^2 + sigma^2 = 1; alpha at t = 0 is exp(-(b0 + b1) / 4) = 0.0066 for the defaults, not 0.

    sigma' = -alpha^2 beta / (2 sigma) is unbounded at t = 1, while the marginal velocity stays smooth (sigma' sigma
    is). So t = 1
    means the last time that the dtype tells from it: sigma ends at sqrt(b0 eps), 1.1e-4 in float32 and 4.7e-9 in
    float64, and every coefficient is finite and agrees with the others.

    Args:
        beta_min: b0, positive.
        beta_max: b1 >= b0.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        if not 0.0 < beta_min <= beta_max < math.inf:
            raise UserError(f"VPBetaPath: 0 < beta_min <= beta_max is needed, got {beta_min} and {beta_max}")
        self.beta_min = beta_min
        self.beta_max = beta_max

    def _integral(self, u: Tensor) -> Tensor:
        return u * (self.beta_min + (0.5 * (self.beta_max - self.beta_min)) * u)

    def _beta(self, u: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * u

    @staticmethod
    def _remaining(t: Tensor) -> Tensor:
        return (1.0 - t).clamp_min(torch.finfo(t.dtype).eps)

    def coefficients(self, t: Float[Tensor, " *b"]) -> Coefficients:
        u = self._remaining(t)
        integral, half_beta = self._integral(u), 0.5 * self._beta(u)
        alpha = torch.exp(-0.5 * integral)
        # expm1: 1 - alpha^2 would lose every digit near t = 1.
        sigma = (-torch.expm1(-integral)).sqrt()
        return Coefficients(alpha, sigma, alpha * half_beta, -alpha.square() * half_beta / sigma)

    def half_log_snr(self, t: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        # alpha^2 / sigma^2 = 1 / (e^T - 1)
        return -0.5 * torch.expm1(self._integral(self._remaining(t))).log()

    def time_of(self, half_log_snr: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        # T = log(1 + e^(-2 lambda)), then the positive root of the quadratic T(u) = T in the form that does not cancel.
        # Held at T(1) first: beyond it lies t = 0, and infinity over infinity.
        integral = softplus(-2.0 * half_log_snr, threshold=1e4).clamp_max(0.5 * (self.beta_min + self.beta_max))
        slope = self.beta_max - self.beta_min
        u = 2.0 * integral / (self.beta_min + torch.sqrt(self.beta_min**2 + 2.0 * slope * integral))
        return (1.0 - u).clamp(0.0, 1.0)

    def wronskian(self, t: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        alpha, _, _, d_sigma = self.coefficients(t)
        return -d_sigma / alpha  # as alpha^2 + sigma^2 = 1

    def inversion(self, t: Float[Tensor, " *b"]) -> Inversion:
        u = self._remaining(t)
        integral = self._integral(u)
        alpha, square = torch.exp(-0.5 * integral), -torch.expm1(-integral)
        two_over_beta = 2.0 / self._beta(u)
        return Inversion(alpha, square / alpha * two_over_beta, square.sqrt(), -square.sqrt() * two_over_beta)

    def __repr__(self) -> str:
        return f"VPBetaPath(beta_min={self.beta_min:g}, beta_max={self.beta_max:g})"
