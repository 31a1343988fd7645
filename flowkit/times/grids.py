"""Grids of sampling times on [0, 1]: where a fixed number of steps lies.

Every grid returns ``steps + 1`` strictly increasing float64 times with 0 and 1 exact at the ends. With u = i / steps:

- :class:`UniformGrid`: t = u.
- :class:`SigmoidGrid`: the normalised logistic t = (S(k(u - m)) - S(-km)) / (S(k(1 - m)) - S(-km)), S logistic.
- :class:`ShiftedGrid`: t = u / (u + a (1 - u)), the resolution shift of Stable Diffusion 3 (Esser et al. 2024, arXiv
  2403.03206).
- :class:`EDMGrid`: even in rho^(1/exponent) with rho = sigma / alpha (Karras et al. 2022, arXiv 2206.00364, equation
  5).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.errors import UserError
from flowkit.paths.affine import AffinePath
from flowkit.paths.linear import LinearPath
from flowkit.times.law import TimeGrid

__all__ = ["EDMGrid", "ShiftedGrid", "SigmoidGrid", "UniformGrid"]


def _even(steps: int) -> Tensor:
    if steps < 1:
        raise UserError(f"a grid needs at least 1 step, got {steps}")
    return torch.arange(steps + 1, dtype=torch.float64) / steps


def _finish(points: Tensor, grid: TimeGrid) -> Tensor:
    """Pin the ends to 0 and 1 and refuse what float64 cannot keep apart."""
    points[0], points[-1] = 0.0, 1.0
    if not bool((points.diff() > 0).all()):
        raise UserError(
            f"{grid!r} puts two of its {len(points)} times at the same place: take fewer steps or a milder setting"
        )
    return points


class UniformGrid(TimeGrid):
    """Equal steps: t_i = i / steps."""

    def points(self, steps: int) -> Float[Tensor, " n"]:
        return _even(steps)

    def __repr__(self) -> str:
        return "UniformGrid()"


class SigmoidGrid(TimeGrid):
    """Smaller steps at both ends; symmetric (t_i + t_{N-i} = 1) when ``middle`` is 0.5, uniform as ``steepness`` goes
    to 0.

    The two-parameter form is FlowKit's reading of Lumina-Next (arXiv 2406.18583), whose released code has another grid.

    Args:
        steepness: k >= 0.
        middle: m, where the steps are longest.
    """

    def __init__(self, steepness: float = 6.0, middle: float = 0.5) -> None:
        if not (math.isfinite(steepness) and steepness >= 0.0):
            raise UserError(f"SigmoidGrid: steepness must be 0 or more, got {steepness}")
        if not math.isfinite(middle):
            raise UserError(f"SigmoidGrid: middle must be a finite number, got {middle}")
        self.steepness = steepness
        self.middle = middle

    def points(self, steps: int) -> Float[Tensor, " n"]:
        u, half, m = _even(steps), 0.5 * self.steepness, self.middle
        if half < 1e-9:
            return u
        # S(a) - S(b) = sinh((a - b)/2) / (2 cosh(a/2) cosh(b/2)): no cancellation for small k. exp(-x) factors: no
        # overflow for large k.
        rise = torch.expm1(-2.0 * half * u) / math.expm1(-2.0 * half)  # sinh(half u) / sinh(half) / exp(half (u - 1))
        inside, end = (half * (u - m)).abs(), abs(half * (1.0 - m))
        bell = (1.0 + math.exp(-2.0 * end)) / (
            1.0 + torch.exp(-2.0 * inside)
        )  # cosh(end) / cosh(inside) / exp(end - inside)
        return _finish(rise * bell * torch.exp(half * (u - 1.0) + end - inside), self)

    def __repr__(self) -> str:
        return f"SigmoidGrid(steepness={self.steepness:g}, middle={self.middle:g})"


class ShiftedGrid(TimeGrid):
    """t = u / (u + shift (1 - u)): ``shift`` > 1 puts more steps at the noise end, 1 is uniform.

    Args:
        shift: a > 0; the inverse shift is 1 / a.
    """

    def __init__(self, shift: float = 3.0) -> None:
        if not (math.isfinite(shift) and shift > 0.0):
            raise UserError(f"ShiftedGrid: shift must be positive, got {shift}")
        self.shift = shift

    def points(self, steps: int) -> Float[Tensor, " n"]:
        u = _even(steps)
        return _finish(u / (u + self.shift * (1.0 - u)), self)

    def __repr__(self) -> str:
        return f"ShiftedGrid(shift={self.shift:g})"


class EDMGrid(TimeGrid):
    """Even in rho^(1/exponent), rho = sigma / alpha, from ``rho_max`` to ``rho_min`` on a path; then one step to t = 1.

    The first time is t = 0 whatever ``rho_max`` says, as sampling starts there. On a path that ends at rho >=
    ``rho_min`` (variance exploding) there is no additional last step.

    Args:
        path: whose rho is meant; the path that is sampled.
        rho_max, rho_min: noise-to-signal ratios of the first and the last but one time.
        exponent: 7 in the paper; larger values put more steps at the data end.
    """

    def __init__(
        self, path: AffinePath | None = None, *, rho_max: float = 80.0, rho_min: float = 0.002, exponent: float = 7.0
    ) -> None:
        if not 0.0 < rho_min < rho_max < math.inf:
            raise UserError(f"EDMGrid: 0 < rho_min < rho_max is needed, got rho_min={rho_min} and rho_max={rho_max}")
        if not (math.isfinite(exponent) and exponent > 0.0):
            raise UserError(f"EDMGrid: exponent must be positive, got {exponent}")
        self.path = LinearPath() if path is None else path
        self.rho_max = rho_max
        self.rho_min = rho_min
        self.exponent = exponent

    def points(self, steps: int) -> Float[Tensor, " n"]:
        ends = torch.exp(-self.path.half_log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64))).tolist()
        first, last = min(self.rho_max, ends[0]), max(self.rho_min, ends[1])
        reaches_data = ends[1] < self.rho_min
        u = _even(steps)
        if reaches_data and steps > 1:
            u = u * steps / (steps - 1)
        root = first ** (1.0 / self.exponent) + u * (last ** (1.0 / self.exponent) - first ** (1.0 / self.exponent))
        return _finish(self.path.time_of(-self.exponent * root.clamp_min(1e-300).log()), self)

    def __repr__(self) -> str:
        return f"EDMGrid({self.path!r}, rho_max={self.rho_max:g}, rho_min={self.rho_min:g}, exponent={self.exponent:g})"
