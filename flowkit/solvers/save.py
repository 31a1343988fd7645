"""What a solve keeps beside the last state: nothing, the states at the steps of a grid, at given times, or the dense
solution.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flowkit.errors import UserError
from flowkit.solvers.interpolation import DenseSolution, Polynomial
from flowkit.solvers.solver import Solution
from flowkit.tensors import like


class Save(Enum):
    """Only the END, the states at all STEPS of a fixed grid (both ends included), or the DENSE solution."""

    END = "end"
    STEPS = "steps"
    DENSE = "dense"


END, STEPS, DENSE = Save.END, Save.STEPS, Save.DENSE
#: Or times, in the units of the span, in any order.
SavePlan = Save | Sequence[float] | Tensor


def read_times(save: SavePlan, span: tuple[float, float]) -> list[float] | None:
    """The given times as numbers, checked against the span; None where ``save`` is no list of times."""
    if isinstance(save, Save):
        return None
    if isinstance(save, str) or not isinstance(save, Sequence | Tensor):
        raise UserError(f"solve: save must be END, STEPS, DENSE or a list of times, not {save!r}")
    times = [float(t) for t in (save.tolist() if isinstance(save, Tensor) else save)]
    low, high = min(span), max(span)
    for t in times:
        if not low <= t <= high:
            raise UserError(f"solve: save asks for t = {t:g}, outside of the span from {span[0]:g} to {span[1]:g}")
    return times


class Recorder:
    """Collects states at given times, or the dense solution, step by step."""

    def __init__(
        self, x: Float[Tensor, "b *d"], times: list[float] | None, dense: bool, span: tuple[float, float]
    ) -> None:
        self._direction = 1.0 if span[1] >= span[0] else -1.0
        self._dense = DenseSolution(x, self._direction) if dense else None
        self._times = times
        self._rows = torch.arange(x.shape[0], device=x.device)
        self._xs = [x if t == span[0] else torch.full_like(x, torch.nan) for t in times or ()]

    def _reaches(self, t0: float, t: float, t1: float) -> bool:
        return t0 * self._direction < t * self._direction <= t1 * self._direction

    def needs_between(self, t0: float, t1: float) -> bool:
        """Is dense output needed on the common step from ``t0`` to ``t1``?"""
        return self._dense is not None or any(t != t1 and self._reaches(t0, t, t1) for t in self._times or ())

    def add_common(self, t0: float, t1: float, x1: Float[Tensor, "b *d"], polynomial: Polynomial | None) -> None:
        """One step of all samples; ``polynomial`` may be None where :meth:`needs_between` is false."""
        if self._dense is not None and polynomial is not None:
            start = torch.full(self._rows.shape, t0, dtype=torch.float64, device=x1.device)
            self._dense.add(self._rows, start, torch.full_like(start, t1), polynomial)
        for i, t in enumerate(self._times or ()):
            if t == t1:
                self._xs[i] = x1
            elif self._reaches(t0, t, t1) and polynomial is not None:
                theta = torch.full(self._rows.shape, (t - t0) / (t1 - t0), dtype=torch.float64, device=x1.device)
                self._xs[i] = polynomial(theta).to(x1.dtype)

    def add(
        self,
        rows: Int[Tensor, " m"],
        accepted: Bool[Tensor, " m"],
        t0: Float[Tensor, " m"],
        t1: Float[Tensor, " m"],
        x1: Float[Tensor, "m *d"],
        polynomial: Polynomial,
    ) -> None:
        """One attempt of the samples ``rows``, each with its own times."""
        if self._dense is not None:
            kept = accepted.nonzero().squeeze(1)
            self._dense.add(rows[kept], t0[kept], t1[kept], polynomial.take(kept))
        for i, t in enumerate(self._times or ()):
            after, before = (t0 < t, t1 >= t) if self._direction > 0 else (t0 > t, t1 <= t)
            hit = (accepted & after & before).nonzero().squeeze(1)
            if len(hit) == 0:
                continue
            inner = polynomial.take(hit)((t - t0[hit]) / (t1[hit] - t0[hit])).to(x1.dtype)
            # The end of a step is its state, not the polynomial's rounding of it.
            state = torch.where(like(t1[hit] == t, inner) > 0, x1[hit], inner)
            self._xs[i] = self._xs[i].index_copy(0, rows[hit], state)

    def deliver(self, solution: Solution) -> None:
        """Hand over what was collected."""
        solution.dense = self._dense
        if self._times is not None:
            solution.ts = torch.tensor(self._times, dtype=torch.float64, device=solution.x.device)
            solution.xs = torch.stack(self._xs) if self._xs else solution.x.new_zeros(0, *solution.x.shape)
