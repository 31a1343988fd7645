"""The discrete schedules of diffusion models as a path: K noise levels, and a smooth curve through them.

A diffusion model has betas beta_0 .. beta_(K-1) and ab_k = prod_(i <= k) (1 - beta_i), k large = noisy. Here index k is
the time t = 1 - (k + 1) / K, so k = K - 1 is t = 0, and t = 1 is clean (ab = 1): alpha^2 = ab and sigma^2 = 1 - ab at
these times, exactly. Between them the integral of beta, T = -log ab, is the monotone cubic through its values (Fritsch
and Carlson 1980, "Monotone Piecewise Cubic Interpolation"), once continuously differentiable.

Schedules: ``squaredcos_cap_v2``, beta_i = min(1 - f((i + 1) / K) / f(i / K), 0.999) with f(r) = cos^2((r + 0.008) /
1.008 pi / 2), Nichol and Dhariwal 2021 (arXiv 2102.09672), as Diffusion Policy uses it (Chi et al. 2023, arXiv
2303.04137); ``linear``, betas evenly spaced from one to the other, Ho et al. 2020 (arXiv 2006.11239).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from flowkit.errors import UserError
from flowkit.paths.affine import AffinePath, Coefficients, Inversion

__all__ = ["DiffusionPath"]

_EPS = torch.finfo(torch.float64).eps


class DiffusionPath(AffinePath):
    """alpha = sqrt(ab), sigma = sqrt(1 - ab), with alpha^2 + sigma^2 = 1.

    alpha at t = 0 is sqrt(ab_(K-1)), which is not 0 (4.9e-4 for the default, 0.6 for ``linear`` with 100 steps);
    sampling starts from x0 all the same, as diffusion models do. sigma' is unbounded at t = 1, which means the last
    float64 before it. Coefficients are worked out in float64 whatever the dtype of the times.

    Train with ``GridTimes(steps)``: its times are the K levels, so that with ``NoisePrediction`` the loss is that of
    the diffusion model; sample with ``DDIM`` on a uniform grid.

    Args:
        schedule: ``squaredcos_cap_v2`` or ``linear``.
        steps: K, the noise levels.
        beta_start, beta_end: of ``linear``, for all K steps (not rescaled when K changes).

    Raises:
        UserError: an unknown schedule, or a number out of its range.
    """

    def __init__(
        self,
        schedule: Literal["squaredcos_cap_v2", "linear"] = "squaredcos_cap_v2",
        steps: int = 100,
        *,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
    ) -> None:
        if schedule not in ("squaredcos_cap_v2", "linear"):
            raise UserError(f"DiffusionPath: schedule={schedule!r}: known are squaredcos_cap_v2 and linear")
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise UserError(f"DiffusionPath: steps must be a whole number of at least 1, not {steps!r}")
        if not 0.0 < beta_start <= beta_end < 1.0:
            raise UserError(f"DiffusionPath: 0 < beta_start <= beta_end < 1 is needed, got {beta_start} and {beta_end}")
        self.schedule, self.steps = schedule, steps
        self.beta_start, self.beta_end = beta_start, beta_end
        betas = _cosine_betas(steps) if schedule == "squaredcos_cap_v2" else _linear_betas(steps, beta_start, beta_end)
        # Knot u = k + 1, where K (1 - t) = u.
        zero = torch.zeros(1, dtype=torch.float64)
        self._knots = torch.cat((zero, -torch.log1p(-betas))).cumsum(0)
        self._pieces = _monotone_cubic(self._knots)
        self._tables: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def _table(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The knots and the pieces on ``device``."""
        if device not in self._tables:
            # Plain tensors even in inference mode, for training may want them later.
            with torch.inference_mode(False):
                self._tables[device] = (self._knots.to(device), self._pieces.to(device))
        return self._tables[device]

    def _integral(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """T and its derivative by 1 - t, float64."""
        u = (1.0 - t.double()).clamp_min(_EPS) * self.steps
        index = u.detach().long().clamp(0, self.steps - 1)
        c0, c1, c2, c3 = self._table(t.device)[1][index].unbind(-1)
        s = u - index
        value = c0 + s * (c1 + s * (c2 + s * c3))
        return value, (c1 + s * (2.0 * c2 + s * (3.0 * c3))) * self.steps

    def coefficients(self, t: Float[Tensor, " *b"]) -> Coefficients:
        integral, beta = self._integral(t)
        alpha, sigma = torch.exp(-0.5 * integral), (-torch.expm1(-integral)).sqrt()
        d_alpha = 0.5 * beta * alpha
        return Coefficients(*(c.to(t.dtype) for c in (alpha, sigma, d_alpha, -alpha * d_alpha / sigma)))

    def half_log_snr(self, t: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        return (-0.5 * torch.expm1(self._integral(t)[0]).log()).to(t.dtype)

    def wronskian(self, t: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        integral, beta = self._integral(t)
        return (0.5 * beta * torch.exp(-0.5 * integral) / (-torch.expm1(-integral)).sqrt()).to(t.dtype)

    def inversion(self, t: Float[Tensor, " *b"]) -> Inversion:
        integral, beta = self._integral(t)
        alpha, square = torch.exp(-0.5 * integral), -torch.expm1(-integral)
        sigma, two_over_beta = square.sqrt(), 2.0 / beta
        parts = (alpha, square / alpha * two_over_beta, sigma, -sigma * two_over_beta)
        return Inversion(*(part.to(t.dtype) for part in parts))

    def time_of(self, half_log_snr: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        knots, pieces = self._table(half_log_snr.device)
        # T = log(1 + e^(-2 lambda)); then the piece it lies on, and Newton's method held inside.
        integral = softplus(-2.0 * half_log_snr.double(), threshold=1e4).clamp_max(float(knots[-1]))
        index = (torch.searchsorted(knots, integral, right=True) - 1).clamp(0, self.steps - 1)
        c0, c1, c2, c3 = pieces[index].unbind(-1)
        rest = integral - c0
        low, high = torch.zeros_like(rest), torch.ones_like(rest)
        s = rest / (c1 + c2 + c3)
        for _ in range(40):
            over = s * (c1 + s * (c2 + s * c3)) - rest
            low, high = torch.where(over <= 0, s, low), torch.where(over >= 0, s, high)
            newton = s - over / (c1 + s * (2.0 * c2 + s * (3.0 * c3)))
            s = torch.where((newton >= low) & (newton <= high), newton, 0.5 * (low + high))
        t = 1.0 - (index + s) / self.steps
        return torch.where(integral >= knots[-1], 0.0, t).clamp(0.0, 1.0).to(half_log_snr.dtype)

    def __repr__(self) -> str:
        return f"DiffusionPath({self.schedule!r}, steps={self.steps})"


def _cosine_betas(steps: int) -> Float[Tensor, " n"]:
    def f(r: float) -> float:
        return math.cos((r + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1.0 - f((i + 1) / steps) / f(i / steps), 0.999) for i in range(steps)]
    return torch.tensor(betas, dtype=torch.float64)


def _linear_betas(steps: int, start: float, end: float) -> Float[Tensor, " n"]:
    return torch.linspace(start, end, steps, dtype=torch.float64)


def _monotone_cubic(knots: Float[Tensor, " k"]) -> Float[Tensor, "pieces 4"]:
    """Each piece c0 + c1 s + c2 s^2 + c3 s^3, s in [0, 1], of the increasing cubic through ``knots``."""
    rise = knots.diff()
    # Inside: the harmonic mean of both rises. At the ends the parabola through three knots, held to a positive slope.
    inside = 2.0 * rise[:-1] * rise[1:] / (rise[:-1] + rise[1:])
    first, last = rise[:1], rise[-1:]
    if len(rise) > 1:
        first = (1.5 * rise[:1] - 0.5 * rise[1:2]).clamp(0.5 * rise[:1], 2.0 * rise[:1])
        last = (1.5 * rise[-1:] - 0.5 * rise[-2:-1]).clamp(0.5 * rise[-1:], 2.0 * rise[-1:])
    slope = torch.cat((first, inside, last))
    left, right = slope[:-1], slope[1:]
    return torch.stack((knots[:-1], left, 3.0 * rise - 2.0 * left - right, left + right - 2.0 * rise), 1)
