"""The linear path x_t = t x1 + (1 - (1 - m) t) x0: flow matching's "OT path", rectified flow's straight line.

Lipman et al. 2022, "Flow Matching for Generative Modeling" (arXiv 2210.02747), equation 20; Liu et al. 2022, "Flow
Straight and Fast" (arXiv 2209.03003) with m = 0.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.errors import UserError
from flowkit.paths.affine import AffinePath, Coefficients, Inversion
from flowkit.paths.path import Point
from flowkit.tensors import like

__all__ = ["LinearPath"]


class LinearPath(AffinePath):
    """alpha = t, sigma = 1 - (1 - floor) t, D = 1.

    Args:
        floor: sigma at t = 1 (sigma_min of the paper), in [0, 1): the path ends at x1 + floor x0.
    """

    def __init__(self, floor: float = 0.0) -> None:
        if not 0.0 <= floor < 1.0:
            raise UserError(f"LinearPath: floor must lie in [0, 1), got {floor}")
        self.floor = floor

    def coefficients(self, t: Float[Tensor, " *b"]) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(t, self._sigma(t), one, one * (self.floor - 1.0))

    def _sigma(self, t: Tensor) -> Tensor:
        return (1.0 - t) + self.floor * t if self.floor else 1.0 - t

    def half_log_snr(self, t: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        return t.log() - self._sigma(t).log()

    def time_of(self, half_log_snr: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        # t / (1 - (1 - m) t) = e^lambda
        return (1.0 / (torch.exp(-half_log_snr) + (1.0 - self.floor))).clamp_max(1.0)

    def inversion(self, t: Float[Tensor, " *b"]) -> Inversion:
        one = torch.ones_like(t)
        return Inversion(one * (1.0 - self.floor), self._sigma(t), one, -t)

    def at(
        self, x0: Float[Tensor, "b *d"], x1: Float[Tensor, "b *d"], t: Float[Tensor, " b"], aux: Tensor | None = None
    ) -> Point:
        # lerp is exact at both ends and one pass over memory.
        end = torch.add(x1, x0, alpha=self.floor) if self.floor else x1
        return Point(x0, x1, t, torch.lerp(x0, end, like(t, x1)), end - x0)

    def __repr__(self) -> str:
        return f"LinearPath(floor={self.floor:g})"
