"""The loop on a fixed grid: all samples share their times, the host knows them, and nothing waits for the device.

No value is read back and no tensor is copied to the device, so a solve can be captured in a CUDA graph or compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.fields.field import Evaluation, Field
from flowkit.random import RandomSource
from flowkit.solvers.interpolation import hermite
from flowkit.solvers.save import Recorder, Save, read_times
from flowkit.solvers.sensitivity import Problem
from flowkit.solvers.solver import Solution, Status, time_dtype


class _Redrawn(Field):
    """A field whose condition is redrawn before every evaluation."""

    def __init__(self, field: Field, generator: RandomSource | None) -> None:
        self.field, self.generator, self.index = field, generator, 0
        self.path, self.independent_gaussian = field.path, field.independent_gaussian

    def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Evaluation:
        return self.field(x, t, None if cond is None else cond.at(t, self.index, self.generator))


def run_fixed(problem: Problem, plan: Sequence[float]) -> Solution:
    """Solve on the times ``plan``, both ends included."""
    field, x, solver, cond, hooks = problem.field, problem.x, problem.solver, problem.cond, problem.hooks
    redrawn = _Redrawn(field, problem.generator) if cond is not None and cond.varies else None
    field = redrawn or field
    b, steps = x.shape[0], len(plan) - 1
    times = _times(plan, x)
    save_times = read_times(problem.save, problem.span)
    recorder = None
    if save_times is not None or problem.save is Save.DENSE:
        recorder = Recorder(x, save_times, problem.save is Save.DENSE, problem.span)
    trajectory = [x] if problem.save is Save.STEPS else None

    evaluations, done = 0, 0
    calls: int | Tensor = 0
    last: Evaluation | None = None
    memory: Any = None
    for i in range(steps):
        if evaluations + solver.evaluations > problem.max_evaluations:
            break
        t0, t1, size = times[i], times[i + 1], plan[i + 1] - plan[i]
        if redrawn is not None:
            redrawn.index = i
        first = last
        if first is None:
            first = field(x, t0, cond)
            evaluations += 1
            calls = calls + first.calls
        if i == 0:
            check_shape(first, x)
            memory = solver.start(t0, x, first)
        for hook in hooks:
            replacement = hook(i, t0, x, first)
            if replacement is not None:
                x, first = replacement, field(replacement, t0, cond)
                evaluations += 1
                calls = calls + first.calls
        between = recorder is not None and recorder.needs_between(plan[i], plan[i + 1])
        step = solver.step(field, t0, t1, x, first, memory, cond, size=size, estimate=between)
        evaluations += step.evaluations
        calls = calls + step.calls
        last, memory, done = step.last, step.memory, i + 1
        if recorder is not None:
            polynomial = None
            if between and step.dense is not None:
                polynomial = step.dense()
            elif between:
                if last is None:
                    last = field(step.x, t1, cond)
                    evaluations += 1
                    calls = calls + last.calls
                polynomial = hermite(x, first.v, step.x, last.v, t1 - t0)
            recorder.add_common(plan[i], plan[i + 1], step.x, polynomial)
        x = step.x
        if trajectory is not None:
            trajectory.append(x)

    for hook in hooks:
        replacement = hook(done, times[done], x, None)
        x = x if replacement is None else replacement
    outcome = Status.OK if done == steps else Status.MAX_EVALUATIONS

    def count(value: int | Tensor) -> Any:
        if isinstance(value, Tensor):
            return value.to(torch.int64).expand(b)
        return lambda: torch.full((b,), value, dtype=torch.int64, device=x.device)

    solution = Solution(
        x=x,
        evaluations=count(evaluations),
        network_calls=count(calls),
        accepted=count(done),
        rejected=count(0),
        status=lambda: torch.where(broken(x, cond), int(Status.NON_FINITE), int(outcome)),  # pyright: ignore[reportArgumentType]
        stopped_at=lambda: torch.full((b,), plan[done], dtype=torch.float64, device=x.device),  # pyright: ignore[reportArgumentType]
    )
    if trajectory is not None:
        solution.ts = torch.tensor(plan[: done + 1], dtype=torch.float64, device=x.device)
        solution.xs = torch.stack(trajectory)
    if recorder is not None:
        recorder.deliver(solution)
    return solution


def _times(plan: Sequence[float], x: Tensor) -> list[Tensor]:
    """Every time of the plan as a view (b,) of one element."""
    dtype, b = time_dtype(x), x.shape[0]
    if x.device.type == "cpu":
        return [t.expand(b) for t in _on_host(tuple(plan), dtype)]
    # Filled on the device: a copy from the host would wait for it.
    return [torch.full((), t, dtype=dtype, device=x.device).expand(b) for t in plan]


@lru_cache(maxsize=64)
def _on_host(plan: tuple[float, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    # Plain tensors even in inference mode, for later solves may want gradients.
    with torch.inference_mode(False):
        return torch.tensor(plan, dtype=dtype).unbind()


def check_shape(first: Evaluation, x: Tensor) -> None:
    """Refuse a field that returns anything but a velocity for each element of the state."""
    if first.v.shape != x.shape:
        raise UserError(f"solve: the field returned shape {tuple(first.v.shape)} for a state of shape {tuple(x.shape)}")


def broken(x: Tensor, cond: Cond | None) -> Tensor:
    """(b,): is any unpadded element of a sample not finite?"""
    # x - x is 0, or NaN where x is not finite: cheaper than a mask of the state.
    zero = x - x
    if cond is not None and cond.padding is not None:
        zero = torch.where(cond.padding, zero, 0.0)
    if x.ndim > 1:
        zero = (zero if x.ndim == 2 else zero.flatten(1)).sum(1)
    return zero.bool()
