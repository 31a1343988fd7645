"""Affine paths x_t = alpha_t x1 + sigma_t x0: a schedule writes four coefficients and inherits the rest.

Conversions follow from the two linear equations x = alpha x1 + sigma x0 and v = alpha' x1 + sigma' x0 (Wronskian
D = alpha' sigma - alpha sigma' > 0): x1 = (sigma v - sigma' x) / D and x0 = (alpha' x - alpha v) / D divide by neither alpha nor sigma
and are safe at both ends. Sources: Lipman et al. 2022 (arXiv 2210.02747), Albergo et al. 2023 (arXiv 2303.08797).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from flowkit.paths.path import Path, Point
from flowkit.tensors import like


class Coefficients(NamedTuple):
    """alpha, sigma and their time derivatives, each with the shape of t."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor


class AffinePath(Path):
    """x_t = alpha_t x1 + sigma_t x0. A schedule defines :meth:`coefficients` and :meth:`time_of`."""

    @abstractmethod
    def coefficients(self, t: Float[Tensor, " *b"]) -> Coefficients:
        """alpha, sigma, d alpha / dt and d sigma / dt at ``t`` in [0, 1]; closed forms, never differences."""

    @abstractmethod
    def time_of(self, half_log_snr: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        """The inverse of lambda = log(alpha / sigma)."""

    def at(
        self, x0: Float[Tensor, "b *d"], x1: Float[Tensor, "b *d"], t: Float[Tensor, " b"], aux: Tensor | None = None
    ) -> Point:
        alpha, sigma, d_alpha, d_sigma = (like(c, x1) for c in self.coefficients(t))
        return Point(x0, x1, t, alpha * x1 + sigma * x0, d_alpha * x1 + d_sigma * x0)
