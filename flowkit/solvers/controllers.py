"""Controllers: fixed steps on a grid, or a tolerance that every sample keeps by itself.

The tolerance: tol = atol + rtol max(|x|, |x'|) elementwise, E = root mean square of error / tol over the sample's own
unpadded elements, accepted when E < 1. The next size is h * clip(safety E^-((p+i)/q) E_before^(p/q), shrink, grow) with
q the order of the solution and E_before the error of the last accepted step (PI control: Gustafsson 1991; p = 0 gives
the elementary controller). First size: Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, II.4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.fields.field import Evaluation, Field
from flowkit.solvers.solver import Beginning, Controller, Judgement, Solver, Step, time_dtype
from flowkit.tensors import like
from flowkit.times.grids import UniformGrid
from flowkit.times.law import TimeGrid


class FixedSteps(Controller):
    """The same steps for all samples.

    Args:
        steps: how many.
        grid: where they lie in the span (:class:`flowkit.times.law.TimeGrid`); uniform by default.
    """

    def __init__(self, steps: int, grid: TimeGrid | None = None) -> None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise UserError(f"FixedSteps: steps must be a whole number of at least 1, not {steps!r}")
        self.steps = steps
        self.grid = UniformGrid() if grid is None else grid
        self._plans: dict[tuple[float, float], tuple[float, ...]] = {}

    def __repr__(self) -> str:
        return f"FixedSteps({self.steps}, grid={self.grid!r})"

    def plan(self, span: tuple[float, float]) -> Sequence[float]:
        if span not in self._plans:
            start, end = span
            inner = self.grid.points(self.steps).tolist()[1:-1]
            # The ends are assigned, never computed.
            self._plans[span] = (start, *(start + (end - start) * u for u in inner), end)
        return self._plans[span]

    def propose(
        self, t: Float[Tensor, " b"], x: Float[Tensor, "b *d"], first: Evaluation, *, end: float, memory: Any
    ) -> tuple[Float[Tensor, " b"], Any]:
        raise RuntimeError("FixedSteps plans all steps beforehand; a controller that wraps it must pass its plan on")

    def judge(
        self, x: Float[Tensor, "b *d"], size: Float[Tensor, " b"], step: Step, *, padding: Tensor | None, memory: Any
    ) -> Judgement:
        return Judgement(torch.ones_like(size, dtype=torch.bool), memory)


class ToleranceMemory(NamedTuple):
    """What travels from step to step.

    Attributes:
        size: of the next step, signed; float64 (b,).
        bias: what the last accepted error and the safety add to the log of the next factor; float64 (b,).
        order: of the solver.
    """

    size: Tensor
    bias: Tensor
    order: int


class Tolerance(Controller):
    """Local error control per sample: every accepted step of every sample has a scaled local error below 1.

    A local tolerance does not bound the global error. 1e-3 and 1e-4 suit sampling on normalised data, 1e-5 and 1e-5
    references.

    Args:
        rtol: relative tolerance.
        atol: absolute tolerance, in units of the state.
        integral: i, the weight of the error itself.
        proportional: p, the weight of its change; 0 gives the elementary controller (then i = 1).
        safety: factor that keeps the next step a little below the best guess.
        shrink: the smallest factor between two sizes.
        grow: the largest one.
        first_size: size of the first step in units of the span; None finds it with one evaluation.
    """

    needs_error = True

    def __init__(
        self,
        rtol: float = 1e-3,
        atol: float = 1e-4,
        *,
        integral: float = 0.5,
        proportional: float = 0.4,
        safety: float = 0.9,
        shrink: float = 0.2,
        grow: float = 10.0,
        first_size: float | None = None,
    ) -> None:
        if not (0 <= rtol < math.inf and 0 <= atol < math.inf and rtol + atol > 0):
            raise UserError(
                f"Tolerance: rtol = {rtol} and atol = {atol} must not be negative, and one of them must be positive"
            )
        if not (0 < shrink < 1 <= grow and 0 < safety < 1):
            raise UserError(
                f"Tolerance: shrink = {shrink}, grow = {grow} and safety = {safety} do not fit: "
                "0 < shrink < 1 <= grow and 0 < safety < 1"
            )
        if first_size is not None and not 0 < first_size < math.inf:
            raise UserError(f"Tolerance: first_size must be positive, not {first_size}")
        self.rtol, self.atol = rtol, atol
        self.integral, self.proportional = integral, proportional
        self.safety, self.shrink, self.grow = safety, shrink, grow
        self.first_size = first_size

    def __repr__(self) -> str:
        return f"Tolerance(rtol={self.rtol:g}, atol={self.atol:g})"

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
        span = end - t[:1]
        size, evaluations, calls = span * (self.first_size or 1.0), 0, 0
        if self.first_size is None:
            size, calls = self._first_size(field, t, x, first, span, solver.order, cond)
            evaluations = 1
        size = size.expand(t.shape).contiguous()
        bias = torch.full_like(t, math.log(self.safety))
        return Beginning(ToleranceMemory(size, bias, solver.order), evaluations, calls)

    def _first_size(
        self, field: Field, t: Tensor, x: Tensor, first: Evaluation, span: Tensor, order: int, cond: Cond | None
    ) -> tuple[Tensor, int | Tensor]:
        """Hairer's guess from the sizes of x, v and the change of v along one small Euler step."""
        padding = None if cond is None else cond.padding
        with torch.no_grad():
            tolerance = self._tolerance(x.abs())
            d0, d1 = scaled_norm(x, tolerance, padding), scaled_norm(first.v, tolerance, padding)
            least = 1e-6 * span.abs()
            small = torch.where((d0 < 1e-5) | (d1 < 1e-5), least, 0.01 * d0 / d1).minimum(span.abs())
            probe = small.nan_to_num(nan=0.0) * span.sign()
            there = torch.addcmul(x, like(probe, x), first.v).to(x.dtype)
            evaluation = field(there, (t + probe).to(time_dtype(x)), cond)
            d2 = scaled_norm(evaluation.v - first.v, tolerance, padding) / small
            steepest = d1.maximum(d2)
            size = torch.where(steepest <= 1e-15, least.maximum(1e-3 * small), (0.01 / steepest).pow(1 / order))
            size = size.minimum(100 * small).minimum(span.abs())
            size = _coarse(torch.where(size > 0, size, 1e-3 * span.abs()))
            return size * span.sign(), evaluation.calls

    def propose(
        self,
        t: Float[Tensor, " b"],
        x: Float[Tensor, "b *d"],
        first: Evaluation,
        *,
        end: float,
        memory: ToleranceMemory,
    ) -> tuple[Float[Tensor, " b"], ToleranceMemory]:
        return t + memory.size, memory

    def judge(
        self,
        x: Float[Tensor, "b *d"],
        size: Float[Tensor, " b"],
        step: Step,
        *,
        padding: Tensor | None,
        memory: ToleranceMemory,
    ) -> Judgement:
        assert step.error is not None
        with torch.no_grad():
            tolerance = self._tolerance(x.abs().maximum(step.x.abs()))
            # E = 0 and what is not finite become very small and very large numbers.
            log = scaled_norm(step.error, tolerance, padding).log_().nan_to_num_(nan=60.0, posinf=60.0, neginf=-60.0)
            p, i = self.proportional / memory.order, self.integral / memory.order
            factor = torch.sub(memory.bias, log, alpha=p + i).exp_().clamp_(self.shrink, self.grow)
            # After a rejection the next step is chosen as if the error before had been 1.
            bias = log.clamp_max(0.0).mul_(p).add_(math.log(self.safety))
            return Judgement(log < 0, ToleranceMemory(size * _coarse(factor), bias, memory.order))

    def _tolerance(self, magnitude: Tensor) -> Tensor:
        """atol + rtol magnitude, never 0."""
        dtype = torch.promote_types(magnitude.dtype, torch.float32)
        least = torch.full((), max(self.atol, torch.finfo(dtype).tiny), dtype=dtype, device=magnitude.device)
        return torch.add(least, magnitude, alpha=self.rtol)


def _coarse(value: Tensor) -> Tensor:
    """Rounded to 8 bits: the last bits of a norm or a power, which depend on the batch, must not change a step."""
    return value.to(torch.bfloat16)


def scaled_norm(
    value: Float[Tensor, "b *d"], tolerance: Float[Tensor, "b *d"], padding: Tensor | None
) -> Float[Tensor, " b"]:
    """Root mean square of value / tolerance over each sample's unpadded elements, float64."""
    ratio = value / tolerance
    if ratio.ndim == 1:
        return ratio.abs().double()
    if padding is not None:
        ratio = torch.where(padding, ratio, 0.0)
    norm = torch.linalg.vector_norm(ratio.reshape(ratio.shape[0], -1), dim=1).double()
    if padding is None:
        return norm.mul_(ratio[0].numel() ** -0.5 if len(ratio) else 1.0)
    count = padding.expand_as(ratio).reshape(ratio.shape[0], -1).sum(1)
    return norm.mul_(count.clamp_min(1).double().rsqrt())
