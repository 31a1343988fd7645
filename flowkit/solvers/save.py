"""What a solve keeps beside the last state: nothing, the states at the steps of a grid, at given times, or the dense solution."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flowkit.errors import UserError
from flowkit.solvers.interpolation import DenseSolution, Polynomial
from flowkit.tensors import like


class Save(Enum):
    """What to keep: only the END, the states at all STEPS of a fixed grid (both ends included), or the DENSE solution."""

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
    """Collects states at given times and the dense solution, step by step."""

    def __init__(self, x: Tensor, times: list[float] | None, dense: bool, span: tuple[float, float]) -> None:
        self._direction = 1.0 if span[1] >= span[0] else -1.0
        self.dense = DenseSolution(x, self._direction) if dense else None
        self._times = times
        self.xs: list[Tensor] = []
        if times is not None:
            self.xs = [x.clone() if t == span[0] else torch.full_like(x, torch.nan) for t in times]

    def crossed(self, t0: float, t1: float) -> bool:
        """Is dense output needed on the step from ``t0`` to ``t1``, which all samples make?"""
        inside = any(t0 * self._direction < t * self._direction < t1 * self._direction for t in self._times or ())
        return self.dense is not None or inside

    def add(
        self, rows: Int[Tensor, " m"], accepted: Bool[Tensor, " m"], t0: Float[Tensor, " m"], t1: Float[Tensor, " m"],
        x1: Float[Tensor, "m *d"], polynomial: Polynomial | None,
    ) -> None:
        """One attempt of the samples ``rows``; ``polynomial`` may be None where :meth:`crossed` is false."""
        if self.dense is not None and polynomial is not None:
            kept = accepted.nonzero().squeeze(1)
            part = Polynomial([c[kept] for c in polynomial.coefficients])
            self.dense.add(rows[kept], t0[kept], t1[kept], part)
        for i, t in enumerate(self._times or ()):
            after = (t0 < t) if self._direction > 0 else (t0 > t)
            before = (t1 >= t) if self._direction > 0 else (t1 <= t)
            hit = (accepted & after & before).nonzero().squeeze(1)
            if not len(hit):
                continue
            state, arrived = x1[hit], t1[hit] == t
            if polynomial is not None:
                part = Polynomial([c[hit] for c in polynomial.coefficients])
                inner = part((t - t0[hit]) / (t1[hit] - t0[hit])).to(state.dtype)
                state = torch.where(like(arrived, inner).bool(), state, inner)
            self.xs[i] = self.xs[i].index_copy(0, rows[hit], state)
