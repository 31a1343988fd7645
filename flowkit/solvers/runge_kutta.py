"""Explicit Runge-Kutta methods from their tableau: k_i = v(x + h sum_j a_ij k_j, t + c_i h), x' = x + h sum_i b_i k_i.

On a fixed grid the step is one number and each sum is a chain of fused additions. With a step per sample the sums of
all later
stages, of the solution and of the error grow together: every new slope is multiplied by its column of the tableau at
once, which takes two operations a stage. Only elementwise products and sums are used, so a sample's bits do not depend
on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from flowkit.cond import Cond
from flowkit.fields.field import Evaluation, Field
from flowkit.solvers.interpolation import Polynomial
from flowkit.solvers.solver import Solver, Step, time_dtype

#: Samples with fewer elements than this are too short for a broadcast step size to be fast on a CPU.
_SHORT = 32


class RungeKutta(Solver):
    """A method is its tableau: nodes c, the rows of A below the first, weights b, and perhaps the embedded weights.

    Attributes:
        nodes: c_1 = 0 .. c_s.
        rows: row i holds a_i1 .. a_i,i-1, for i = 2 .. s.
        weights: b_1 .. b_s.
        embedded: the weights of the embedded solution, of order ``error_order``; error = h sum (b - embedded)_i k_i.
    """

    nodes: ClassVar[tuple[float, ...]]
    rows: ClassVar[tuple[tuple[float, ...], ...]]
    weights: ClassVar[tuple[float, ...]]
    embedded: ClassVar[tuple[float, ...] | None] = None
    #: The last stage is the field at the new point (first same as last).
    fsal: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.fsal = len(cls.rows) > 0 and cls.nodes[-1] == 1 and cls.weights == (*cls.rows[-1], 0)
        cls.evaluations = len(cls.nodes) - cls.fsal

    def __init__(self) -> None:
        self._tables: dict[tuple[torch.dtype, torch.device, int], tuple[tuple[Tensor, ...], Tensor]] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def dense(self, x0: Tensor, x1: Tensor, slopes: Sequence[Tensor], h: Tensor | float) -> Polynomial:
        """The dense output of a step from its ends and slopes. Methods that leave it out get the cubic Hermite
        polynomial.
        """
        raise NotImplementedError

    def _has_dense(self) -> bool:
        return type(self).dense is not RungeKutta.dense

    def step(
        self,
        field: Field,
        t0: Float[Tensor, " b"],
        t1: Float[Tensor, " b"],
        x: Float[Tensor, "b *d"],
        first: Evaluation,
        memory: Any,
        cond: Cond | None,
        *,
        size: float | Tensor | None = None,
        estimate: bool = True,
    ) -> Step:
        """See :class:`Solver`; ``size`` may also be a tensor of one number, on a grid that a program loops over."""
        if size is None:
            return self._step_per_sample(field, t0, t1, x, first, cond)
        # On a fixed grid the last of the same stages is left to the loop, which needs it at every step but the last.
        slopes = [first.v]
        calls: int | Tensor = 0
        for i in range(1, self.evaluations):
            node = self.nodes[i]
            at = t1 if node == 1 else t0 if node == 0 else t0 + node * size
            evaluation = field(_combine(x, size, self.rows[i - 1], slopes), at, cond)
            slopes.append(evaluation.v)
            calls = calls + evaluation.calls
        new = _combine(x, size, self.weights, slopes)
        step = Step(new, evaluations=self.evaluations - 1, calls=calls)
        if not (estimate and self._has_dense()):
            return step
        last = field(new, t1, cond)
        return step._replace(
            dense=lambda: self.dense(x, new, [*slopes, last.v], size),
            last=last,
            evaluations=step.evaluations + 1,
            calls=calls + last.calls,
        )

    def _step_per_sample(
        self, field: Field, t0: Tensor, t1: Tensor, x: Tensor, first: Evaluation, cond: Cond | None
    ) -> Step:
        columns, nodes = self._table(x)
        h, dtype = t1 - t0, time_dtype(x)
        wide = spread(h.to(torch.promote_types(x.dtype, torch.float32)), x)
        # Stages at the end of the step get its time as it is, not a sum that may lie beyond it.
        end = t1.to(dtype)
        times = torch.addcmul(t0, nodes, h).to(dtype).unbind()
        low = wide.dtype != x.dtype
        slopes = [first.v]
        sums = columns[0] * first.v
        evaluation, new, calls = first, x, 0
        for i in range(1, len(self.nodes)):
            new = torch.addcmul(x, wide, sums[0])
            new = new.to(x.dtype) if low else new
            evaluation = field(new, end if self.nodes[i] == 1 else times[i - 1], cond)
            slopes.append(evaluation.v)
            calls = calls + evaluation.calls
            sums = torch.addcmul(sums[1:], columns[i], evaluation.v)
        if not self.fsal:
            new = torch.addcmul(x, wide, sums[0]).to(x.dtype)

        return Step(
            new,
            error=wide * sums[-1] if self.embedded is not None else None,
            dense=(lambda: self.dense(x, new, slopes, wide)) if self._has_dense() else None,
            last=evaluation if self.fsal else None,
            evaluations=len(self.nodes) - 1,
            calls=calls,
        )

    def _table(self, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Column j of the tableau below its diagonal, what slope j adds to the later stages, the solution and the
        error; the nodes.
        """
        dtype = torch.promote_types(x.dtype, torch.float32)
        key = (dtype, x.device, x.ndim)
        if key not in self._tables:
            stages = len(self.nodes)
            table = [list(row) for row in self.rows]
            if not self.fsal:
                table.append(list(self.weights))
            if self.embedded is not None:
                table.append([b - e for b, e in zip(self.weights, self.embedded, strict=True)])
            full = torch.tensor([row + [0.0] * (stages - len(row)) for row in table], dtype=torch.float64)
            # A plain tensor even when the first solve runs in inference mode, for later solves may want gradients.
            with torch.inference_mode(False):
                full = full.to(dtype=dtype, device=x.device).clone()
                columns = tuple(full[j:, j].reshape(-1, *[1] * x.ndim).contiguous() for j in range(stages))
                nodes = torch.tensor(self.nodes[1:], dtype=torch.float64, device=x.device).unsqueeze(1)
                self._tables[key] = (columns, nodes)
        return self._tables[key]


def _combine(x: Tensor, size: float | Tensor, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """x + size sum_i weights_i slopes_i, one fused addition for each weight that is not zero."""
    out = None
    for weight, slope in zip(weights, slopes, strict=False):
        if weight == 0:
            continue
        # The sum is ours alone after the first term, and addition saves nothing for the backward pass: add in place.
        if isinstance(size, Tensor):
            out = (x if out is None else out) + (size * weight).to(x.dtype) * slope
        else:
            out = torch.add(x, slope, alpha=size * weight) if out is None else out.add_(slope, alpha=size * weight)
    return x if out is None else out


def spread(value: Shaped[Tensor, " b"], x: Float[Tensor, "b *d"]) -> Tensor:
    """``value`` per sample so that it broadcasts over ``x`` (b, *d); written out where samples are too short for
    that to be
    fast on a CPU.
    """
    elements = x.shape[1:].numel()
    if x.ndim == 1 or elements == 1 or elements >= _SHORT or x.device.type != "cpu":
        return value.reshape(-1, *[1] * (x.ndim - 1))
    total = x.numel()
    index = _OWNER.get(elements)
    if index is None or len(index) < total:
        # Plain tensors even in inference mode, for later solves may want gradients.
        with torch.inference_mode(False):
            index = torch.arange(total).div_(elements, rounding_mode="floor")
        _OWNER[elements] = index
    return value.index_select(0, index[:total]).view(x.shape)


#: Elements per sample -> for each element of a batch, its sample.
_OWNER: dict[int, Tensor] = {}
