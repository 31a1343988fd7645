"""The loop on a fixed grid: all samples share their times, the host knows them, and nothing waits for the device.

No value is read back and no tensor is copied to the device, so a solve can be captured in a CUDA graph or compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    redrawn = None
    if cond is not None and cond.varies:
        field = redrawn = _Redrawn(field, problem.generator)
    recorder = trajectory = None
    if problem.save is Save.STEPS:
        trajectory = [x]
    elif problem.save is not Save.END:
        save_times = read_times(problem.save, problem.span)
        recorder = Recorder(x, save_times, problem.save is Save.DENSE, problem.span)

    # Filled where the state lives, not copied there from the host, which would wait.
    batch, dtype, device = (x.shape[0],), time_dtype(x), x.device
    steps, cost, budget = len(plan) - 1, solver.evaluations, problem.max_evaluations
    evaluations, done = 0, 0
    calls: int | Tensor = 0
    last: Evaluation | None = None
    memory: Any = None
    t0 = torch.full(batch, plan[0], dtype=dtype, device=device)
    for i in range(steps):
        if evaluations + cost > budget:
            break
        start, end = plan[i], plan[i + 1]
        t1 = torch.full(batch, end, dtype=dtype, device=device)
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
        between = recorder is not None and recorder.needs_between(start, end)
        step = solver.step(field, t0, t1, x, first, memory, cond, size=end - start, estimate=between)
        evaluations += step.evaluations
        calls = calls + step.calls
        last, memory = step.last, step.memory
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
            recorder.add_common(start, end, step.x, polynomial)
        x, t0, done = step.x, t1, i + 1
        if trajectory is not None:
            trajectory.append(x)

    for hook in hooks:
        replacement = hook(done, t0, x, None)
        x = x if replacement is None else replacement
    outcome = Status.OK if done == steps else Status.MAX_EVALUATIONS
    solution = Solution.on_demand(
        x,
        evaluations=evaluations,
        network_calls=calls if isinstance(calls, int) else calls.to(torch.int64).expand(batch),
        accepted=done,
        rejected=0,
        status=lambda: torch.where(broken(x, cond), int(Status.NON_FINITE), int(outcome)),
        stopped_at=plan[done],
    )
    if trajectory is not None:
        solution.ts = torch.tensor(plan[: done + 1], dtype=torch.float64, device=x.device)
        solution.xs = torch.stack(trajectory)
    if recorder is not None:
        recorder.deliver(solution)
    return solution


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
