"""Dense output: polynomials over one step, and the whole solution made of them.

A step from t0 to t1 is x(theta) = sum_j c_j theta^j with theta = (t - t0) / (t1 - t0) in [0, 1], and
:class:`DenseSolution` joins the steps of each sample. Cubic Hermite (third order): Hairer, Norsett and Wanner,
Solving Ordinary Differential Equations I, II.6.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowkit.tensors import like


class Polynomial:
    """x(theta) = sum_j c_j theta^j, each c_j (b, *d)."""

    def __init__(self, coefficients: Sequence[Float[Tensor, "b *d"]]) -> None:
        self.coefficients = coefficients

    def __call__(self, theta: Float[Tensor, " b"]) -> Float[Tensor, "b *d"]:
        """The state at the fraction ``theta`` of the step, per sample."""
        *rest, value = self.coefficients
        power = like(theta, value)
        for coefficient in reversed(rest):
            value = coefficient + power * value
        return value

    def take(self, index: Int[Tensor, " n"]) -> Polynomial:
        """The rows ``index``."""
        return Polynomial([c[index] for c in self.coefficients])


def hermite(x0: Tensor, v0: Tensor, x1: Tensor, v1: Tensor, size: Float[Tensor, " b"]) -> Polynomial:
    """The cubic through both ends of a step with the right slopes; ``size`` is t1 - t0."""
    h = like(size, x0)
    rise, slope0, slope1 = x1 - x0, h * v0, h * v1
    return Polynomial((x0, slope0, 3.0 * rise - 2.0 * slope0 - slope1, slope0 + slope1 - 2.0 * rise))


class DenseSolution:
    """t (b,) -> state (b, *d), over all accepted steps of all samples. Times outside of the span give its ends."""

    def __init__(self, start: Float[Tensor, "b *d"], direction: float) -> None:
        self._start = start
        self._direction = direction
        self._pieces: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._ready: tuple[Tensor, ...] | None = None

    def add(self, rows: Int[Tensor, " m"], t0: Tensor, t1: Tensor, polynomial: Polynomial) -> None:
        """One step of the samples ``rows``; all tensors have those rows."""
        self._pieces.append((rows, t0, t1, torch.stack(list(polynomial.coefficients), 1)))
        self._ready = None

    def _table(self) -> tuple[Tensor, ...]:
        """Steps sorted by sample; ``ends`` (b, most steps) holds their end times, infinity after the last."""
        if self._ready is None:
            rows, t0, t1, coefficients = (torch.cat(part) for part in zip(*self._pieces, strict=True))
            order = torch.argsort(rows, stable=True)
            rows, t0, t1 = rows[order], t0[order].double(), t1[order].double()
            counts = torch.bincount(rows, minlength=self._start.shape[0])
            offsets = counts.cumsum(0) - counts
            within = torch.arange(len(rows), device=rows.device) - offsets[rows]
            ends = t1.new_full((len(counts), int(counts.max())), torch.inf)
            ends[rows, within] = t1 * self._direction
            self._ready = (counts, offsets, ends, t0, t1, coefficients[order])
        return self._ready

    def __call__(self, t: Float[Tensor, " b"] | float) -> Float[Tensor, "b *d"]:
        """The state at ``t``: one time per sample, or one number for all."""
        b = self._start.shape[0]
        t = torch.as_tensor(t, dtype=torch.float64, device=self._start.device).expand(b)
        if not self._pieces:
            return self._start
        counts, offsets, ends, t0, t1, coefficients = self._table()
        which = torch.searchsorted(ends, (t * self._direction).unsqueeze(1)).squeeze(1)
        which = offsets + which.minimum(counts - 1).clamp_min(0)
        which = which.clamp_max(len(t0) - 1)
        theta = ((t - t0[which]) / (t1[which] - t0[which])).clamp(0.0, 1.0)
        value = Polynomial(coefficients[which].unbind(1))(theta)
        # A sample without a single accepted step stays where it was.
        return torch.where(like(counts, value) > 0, value, self._start)
