"""The trigonometric path x_t = sin(pi t / 2) x1 + cos(pi t / 2) x0: variance preserving with a cosine schedule.

Nichol and Dhariwal 2021 (arXiv 2102.09672) for the schedule; Albergo and Vanden-Eijnden 2022 (arXiv 2209.15571) for the
interpolant.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.paths.affine import AffinePath, Coefficients, Inversion, State, Time, cast, column
from flowkit.paths.path import Point

__all__ = ["TrigonometricPath"]

_HALF_PI = 0.5 * math.pi
#: pi / 2 rounded up, in float64 and float32 alike: its cosine is below 0, never above.
_ANGLE = math.nextafter(_HALF_PI, 2.0)


class TrigonometricPath(AffinePath):
    """alpha = sin(pi t / 2), sigma = cos(pi t / 2), D = pi / 2. The diffusion velocity is F = -(2 / pi) v."""

    @staticmethod
    def _sine_cosine(t: Tensor) -> tuple[Tensor, Tensor]:
        # cos(pi t / 2) as a sine of the remaining time: exactly 0 at t = 1, and accurate near it.
        return torch.sin(_HALF_PI * t), torch.sin(_HALF_PI * (1.0 - t))

    def coefficients(self, t: Float[Tensor, " *b"]) -> Coefficients:
        alpha, sigma = self._sine_cosine(t)
        return Coefficients(alpha, sigma, _HALF_PI * sigma, -_HALF_PI * alpha)

    def inversion(self, t: Float[Tensor, " *b"]) -> Inversion:
        alpha, sigma = self._sine_cosine(t)
        return Inversion(alpha, sigma / _HALF_PI, sigma, alpha / -_HALF_PI)

    def at(self, x0: State, x1: State, t: Time, aux: Tensor | None = None) -> Point:
        # The state needs sigma to an absolute precision only: cheaper than the coefficients, and still 0 at t = 1.
        angle = _ANGLE * column(t, x1)
        alpha, sigma = cast((torch.sin(angle), torch.cos(angle).relu()), x1)
        xt = torch.addcmul(alpha * x1, sigma, x0)
        return Point(x0, x1, t, xt, torch.addcmul((_HALF_PI * sigma) * x1, alpha, x0, value=-_HALF_PI))

    def time_of(self, half_log_snr: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        return (torch.atan(half_log_snr.exp()) / _HALF_PI).clamp_max(1.0)

    def __repr__(self) -> str:
        return "TrigonometricPath()"
