"""Paths whose time is the log-SNR.

gamma = log(sigma^2 / alpha^2) falls evenly from gamma_max (noise) to gamma_min (data):

    gamma(t) = gamma_max - (gamma_max - gamma_min) t,    D = (gamma_max - gamma_min) alpha sigma / 2.

Integrating a field over t is then integrating over gamma, the variable in which the likelihood is well behaved near the
data. Both ends are cut: x_0 still holds alpha_0 x1 and x_1 still holds sigma_1 x0. Zheng et al. 2023, "Improved
Techniques for Maximum Likelihood Estimation for Diffusion ODEs" (arXiv 2305.03935); Kingma et al. 2021 (arXiv
2107.00630).
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.paths.affine import AffinePath, Coefficients, Inversion

__all__ = ["LogSNRPath", "SPLogSNRPath", "VPLogSNRPath"]

#: Of the table that the straight path's quantile starts from.
_KNOTS = 1025


class LogSNRPath(AffinePath):
    """An affine path with gamma linear in time; subclasses say how alpha and sigma follow from gamma.

    Args:
        gamma_min: gamma at the data (t = 1).
        gamma_max: gamma at the noise (t = 0).

    Raises:
        UserError: gamma_min is not below gamma_max.
    """

    def __init__(self, gamma_min: float = -13.3, gamma_max: float = 5.0) -> None:
        if not -math.inf < gamma_min < gamma_max < math.inf:
            raise UserError(f"{type(self).__name__}: gamma_min < gamma_max is needed, got {gamma_min} and {gamma_max}")
        self.gamma_min, self.gamma_max = gamma_min, gamma_max

    @property
    def span(self) -> float:
        """gamma_max - gamma_min."""
        return self.gamma_max - self.gamma_min

    def gamma(self, t: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        """log(sigma^2 / alpha^2) at ``t``."""
        return self.gamma_max - self.span * t

    def time_at(self, gamma: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        """The time of ``gamma``, held inside [0, 1]."""
        return ((self.gamma_max - gamma) / self.span).clamp(0.0, 1.0)

    @property
    @abstractmethod
    def mass(self) -> float:
        """Z, the integral of alpha^2 over gamma."""

    @abstractmethod
    def quantile(self, u: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        """gamma below which the share ``u`` of the density alpha^2 / Z lies; float64."""

    def half_log_snr(self, t: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        return -0.5 * self.gamma(t)

    def time_of(self, half_log_snr: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        return self.time_at(-2.0 * half_log_snr)

    def wronskian(self, t: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        alpha, sigma, _, _ = self.coefficients(t)
        return 0.5 * self.span * alpha * sigma

    def start(self, x0: Float[Tensor, "b *d"], cond: Cond | None = None) -> Float[Tensor, "b *d"]:
        """sigma_0 x0: the little that x_0 still holds of the data is left out."""
        return float(self.coefficients(torch.zeros((), dtype=torch.float64)).sigma) * x0

    def __repr__(self) -> str:
        return f"{type(self).__name__}(gamma_min={self.gamma_min:g}, gamma_max={self.gamma_max:g})"


class VPLogSNRPath(LogSNRPath):
    """alpha^2 = sigmoid(-gamma), sigma^2 = sigmoid(gamma): variance preserving."""

    def coefficients(self, t: Float[Tensor, " *b"]) -> Coefficients:
        gamma = self.gamma(t)
        # Through logarithms: 1 - alpha^2 would lose every digit near the data.
        alpha, sigma = (0.5 * logsigmoid(-gamma)).exp(), (0.5 * logsigmoid(gamma)).exp()
        rate = 0.5 * self.span * alpha * sigma
        return Coefficients(alpha, sigma, rate * sigma, -rate * alpha)

    def inversion(self, t: Float[Tensor, " *b"]) -> Inversion:
        alpha, sigma, _, _ = self.coefficients(t)
        two = 2.0 / self.span
        return Inversion(alpha, two / alpha, sigma, -two / sigma)

    @property
    def mass(self) -> float:
        return _softplus(-self.gamma_min) - _softplus(-self.gamma_max)

    def quantile(self, u: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        return -torch.expm1(_softplus(-self.gamma_min) - self.mass * u.double()).log()


class SPLogSNRPath(LogSNRPath):
    """sigma = sigmoid(gamma / 2), alpha = 1 - sigma: the straight path, in log-SNR."""

    def coefficients(self, t: Float[Tensor, " *b"]) -> Coefficients:
        half = 0.5 * self.gamma(t)
        alpha, sigma = torch.sigmoid(-half), torch.sigmoid(half)
        rate = 0.5 * self.span * alpha * sigma
        return Coefficients(alpha, sigma, rate, -rate)

    def inversion(self, t: Float[Tensor, " *b"]) -> Inversion:
        alpha, sigma, _, _ = self.coefficients(t)
        two, one = 2.0 / self.span, torch.ones_like(t)
        return Inversion(one, two / alpha, one, -two / sigma)

    @staticmethod
    def _primitive(gamma: Tensor) -> Tensor:
        """W with dW / d gamma = -alpha^2 / 2."""
        return softplus(-0.5 * gamma) + torch.sigmoid(0.5 * gamma)

    def _below(self, gamma: Tensor) -> Tensor:
        """The integral of alpha^2 from gamma_min to ``gamma``."""
        return 2.0 * (self._primitive(gamma.new_full((), self.gamma_min)) - self._primitive(gamma))

    @property
    def mass(self) -> float:
        return float(self._below(torch.tensor(self.gamma_max, dtype=torch.float64)))

    def quantile(self, u: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        # Between knots by a straight line, then Newton's method: from so near two steps reach the last digits.
        wanted = u.double() * self.mass
        knots = torch.linspace(self.gamma_min, self.gamma_max, _KNOTS, dtype=torch.float64, device=u.device)
        below = self._below(knots)
        index = (torch.searchsorted(below, wanted.contiguous()) - 1).clamp(0, _KNOTS - 2)
        rise = below[index + 1] - below[index]
        gamma = knots[index] + (knots[1] - knots[0]) * (wanted - below[index]) / rise
        for _ in range(2):
            gamma = gamma - (self._below(gamma) - wanted) / torch.sigmoid(-0.5 * gamma).square()
        return gamma.clamp(self.gamma_min, self.gamma_max)


def _softplus(x: float) -> float:
    """log(1 + e^x)."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
