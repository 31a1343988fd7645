"""AdaFlow's rule for step sizes: small steps where the flow's target is still spread, one step where it is not.

With sigma(x, t) the root mean square (over the elements of a sample) of the conditional standard deviation of the
velocity, dx/dt given x_t = x, a step takes

    size = clip(eta / sigma(x, t), span / N, rest of the span).

Why: from x at t the true pair moves by size dx/dt, Euler by size v, the conditional mean; so the laws differ after the
step by at most size sqrt(E sigma^2) in the Wasserstein-2 distance (per root-mean-square element), which the rule keeps
below eta unless the smallest step is forced. Hu et al. 2024, "AdaFlow: Imitation Learning with Variance-Adaptive
Flow-Based Policies" (arXiv 2402.04292), where sigma and eta are sums over d elements: eta here is theirs over sqrt(d).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.cond import Cond
from flowkit.errors import UserError, nearest
from flowkit.fields.field import LOG_SIGMA, Evaluation, Field
from flowkit.solvers.solver import Beginning, Controller, Judgement, Solver, Step

#: The log of sigma is held inside plus and minus this, so that its exponential is a positive float64.
_LARGEST_LOG = 700.0


class VarianceAdaptive(Controller):
    """Steps inversely proportional to the spread that the field's head ``log_sigma`` tells, accepted as they are.

    The clock is float64 and the last step ends exactly at the end; there are at most ``max_steps`` steps.

    Args:
        eta: the error that one step may make, per root-mean-square element, in units of the state: 0 or more. 0 makes
            ``max_steps`` equal steps, infinity makes one.
        max_steps: N; no step but the last is shorter than the span over N.
        head: name of the head, (b,): log of the root-mean-square conditional standard deviation of the velocity. One
            that is not a number counts as infinitely spread.

    Raises:
        UserError: an argument out of its range; in a solve, a field without that head.
    """

    def __init__(self, eta: float, max_steps: int = 10, *, head: str = LOG_SIGMA) -> None:
        if not eta >= 0:
            raise UserError(f"VarianceAdaptive: eta must be 0 or more (infinity makes one step), not {eta}")
        if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
            raise UserError(f"VarianceAdaptive: max_steps must be a whole number of at least 1, not {max_steps!r}")
        self.eta, self.max_steps, self.head = float(eta), max_steps, head

    def __repr__(self) -> str:
        return f"VarianceAdaptive(eta={self.eta:g}, max_steps={self.max_steps})"

    def begin(
        self,
        field: Field,
        t: Float[Tensor, " b"],
        x: Float[Tensor, "b *d"],
        first: Evaluation,
        *,
        end: float,
        solver: Solver,
        cond: Cond | None,
    ) -> Beginning:
        """The memory is the smallest step of each sample, signed."""
        self._spread(first, t)
        return Beginning((end - t) / self.max_steps)

    def propose(
        self, t: Float[Tensor, " b"], x: Float[Tensor, "b *d"], first: Evaluation, *, end: float, memory: Tensor
    ) -> tuple[Float[Tensor, " b"], Tensor]:
        least = memory.abs()
        size = (self.eta * torch.exp(-self._spread(first, t))).maximum(least)
        # A rest of rounding, and one too short for anybody to see, are no step of their own.
        invisible = (1e-3 * least).minimum(1e-6 * self.max_steps * least)
        last = size + invisible >= (end - t).abs()
        return torch.where(last, end, t + size * memory.sign()), memory

    def judge(
        self, x: Float[Tensor, "b *d"], size: Float[Tensor, " b"], step: Step, *, padding: Tensor | None, memory: Any
    ) -> Judgement:
        return Judgement(torch.ones_like(size, dtype=torch.bool), memory)

    def _spread(self, first: Evaluation, t: Tensor) -> Tensor:
        """log sigma, float64 (b,), finite."""
        if self.head not in first.heads:
            raise UserError(
                f"VarianceAdaptive reads the head {self.head!r}, which this field does not have "
                f"({nearest(self.head, first.heads)}): train with the objective AdaFlow, or take fixed steps"
            )
        log_sigma = first.heads[self.head].detach()
        if log_sigma.shape != t.shape:
            raise UserError(
                f"VarianceAdaptive: the head {self.head!r} must be one number a sample, not {tuple(log_sigma.shape)}"
            )
        return log_sigma.double().nan_to_num(nan=math.inf).clamp(-_LARGEST_LOG, _LARGEST_LOG)
