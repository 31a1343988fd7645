"""The only integration loop: dx/dt = v(x, t) from one end of the span to the other.

On fixed steps all samples share their times, the host knows them, and nothing waits for the device. With a tolerance each sample has its
own time and step, its own verdict and its own end; finished samples leave the batch, so the network is not asked about them again.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_map_only

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.fields.field import Evaluation, Field, FunctionField
from flowkit.random import RandomSource
from flowkit.solvers.interpolation import hermite
from flowkit.solvers.ragged import Ragged
from flowkit.solvers.save import END, Recorder, Save, SavePlan, read_times
from flowkit.solvers.sensitivity import Direct, Hook, Problem, Sensitivity
from flowkit.solvers.solver import Controller, Solution, Solver, Status, Step, time_dtype

_DIRECT = Direct()


def solve(
    field: Field | Callable[..., Tensor | Evaluation],
    x: Float[Tensor, "b *d"],
    *,
    solver: Solver,
    controller: Controller | None = None,
    span: tuple[float, float] = (0.0, 1.0),
    cond: Cond | None = None,
    save: SavePlan = END,
    sensitivity: Sensitivity = _DIRECT,
    max_evaluations: int = 10_000,
    generator: RandomSource | None = None,
    hooks: Sequence[Hook] = (),
) -> Solution:
    """Integrate a field.

    Args:
        field: a :class:`Field`, or a function ``(x, t) -> v`` or ``(x, t, cond) -> v`` with t (b,).
        x: the state at ``span[0]``, batch first.
        solver: the method of one step.
        controller: ``FixedSteps(steps, grid)`` or ``Tolerance(rtol, atol)``; ``Tolerance()`` where the solver estimates its error.
        span: from, to; swapped it goes backward in time, and other units than [0, 1] are fine.
        cond: the condition, handed to the field; its ``padding`` says which elements count for a tolerance.
        save: END, STEPS (fixed grids: all states), times, or DENSE (a callable in ``Solution.dense``).
        sensitivity: how gradients go through the solve.
        max_evaluations: budget per sample; a sample that would exceed it stops where it is, with a status.
        generator: for conditions that are redrawn in the solve.
        hooks: each is called as hook(index, t, x, evaluation) before step ``index`` with the state and the field there, and once more at the
            end with the evaluation None; a tensor it returns replaces the state. They keep finished samples in the batch, which then wait.

    Returns:
        The solution; a sample that could not be finished has a status other than OK and its last good state.

    Raises:
        UserError: an argument does not fit (an adaptive controller with a redrawn condition or a solver without an error estimate, ...).
    """
    start, end = float(span[0]), float(span[1])
    if not (math.isfinite(start) and math.isfinite(end)):
        raise UserError(f"solve: the span must be two finite times, not {span}")
    if not x.is_floating_point() or x.ndim < 1:
        raise UserError(f"solve: the state must be a floating tensor with the batch first, not {x.dtype} of shape {tuple(x.shape)}")
    if controller is None:
        controller = _default_controller(solver)
    if controller.needs_error and solver.error_order is None:
        raise UserError(
            f"solve: {type(solver).__name__} does not estimate its error, so {type(controller).__name__} cannot steer it: "
            "use FixedSteps, or DormandPrince, Tsitouras or BogackiShampine"
        )
    as_field = field if isinstance(field, Field) else FunctionField(field, takes_cond=_takes_cond(field))
    problem = Problem(
        as_field, x, solver, controller, (start, end), cond, save, max_evaluations, generator, hooks
    )
    return sensitivity.run(problem, integrate)


def integrate(problem: Problem) -> Solution:
    """The loop itself, without the checks of :func:`solve`."""
    plan = problem.controller.plan(problem.span)
    if problem.span[0] == problem.span[1]:
        plan = problem.span[:1]
    if plan is not None:
        return _on_grid(problem, plan)
    if problem.cond is not None and problem.cond.varies:
        raise UserError("solve: the condition is redrawn at every evaluation, which no error estimate survives: use FixedSteps")
    if problem.save is Save.STEPS:
        raise UserError("solve: save=STEPS needs FixedSteps, for adaptive steps differ by sample: give times, or save=DENSE")
    return _adaptive(problem)


def _on_grid(problem: Problem, plan: Sequence[float]) -> Solution:
    """All samples in step; no host synchronisation, so that it can be captured or compiled."""
    field, x, solver, cond, hooks = problem.field, problem.x, problem.solver, problem.cond, problem.hooks
    redrawn = _Redrawn(field, problem.generator) if cond is not None and cond.varies else None
    field = redrawn or field
    b, steps, dtype = x.shape[0], len(plan) - 1, time_dtype(x)
    times = [t.expand(b) for t in _on_device(plan, dtype, x.device)]
    saved = read_times(problem.save, problem.span)
    record = None
    if saved is not None or problem.save is Save.DENSE:
        record = Recorder(x, saved, problem.save is Save.DENSE, problem.span)
    trajectory = [x] if problem.save is Save.STEPS else None

    evaluations, calls, done = 0, 0, 0
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
            _check_shape(first, x)
            memory = solver.start(t0, x, first)
        for hook in hooks:
            replacement = hook(i, t0, x, first)
            if replacement is not None:
                x, first = replacement, field(replacement, t0, cond)
                evaluations += 1
                calls = calls + first.calls
        crossed = record is not None and record.crossed(plan[i], plan[i + 1])
        step: Step = solver.step(field, t0, t1, x, first, memory, cond, size=size, estimate=crossed)
        evaluations += step.evaluations
        calls = calls + step.calls
        last, memory, done = step.last, step.memory, i + 1
        if record is not None:
            polynomial = None
            if crossed and step.dense is not None:
                polynomial = step.dense()
            elif crossed:
                if last is None:
                    last = field(step.x, t1, cond)
                    evaluations += 1
                    calls = calls + last.calls
                polynomial = hermite(x, first.v, step.x, last.v, (t1 - t0))
            everyone = torch.arange(b, device=x.device)
            exact = [t.double() for t in (t0, t1)] if dtype != torch.float64 else [t0, t1]
            exact = [torch.full_like(exact[0], plan[i]), torch.full_like(exact[1], plan[i + 1])]
            record.add(everyone, torch.ones_like(everyone, dtype=torch.bool), exact[0], exact[1], step.x, polynomial)
        x = step.x
        if trajectory is not None:
            trajectory.append(x)
    x = _last_hooks(hooks, done, times[done], x)

    def count(value: int | Tensor) -> Tensor:
        if isinstance(value, Tensor):
            return value.to(torch.int64).expand(b).contiguous()
        return torch.full((b,), value, dtype=torch.int64, device=x.device)

    status = count(Status.OK if done == steps else Status.MAX_EVALUATIONS)
    return _solution(
        problem,
        record,
        saved,
        x=x,
        evaluations=count(evaluations),
        network_calls=count(calls),
        accepted=count(done),
        rejected=count(0),
        status=status,
        stopped_at=torch.full((b,), plan[done], dtype=torch.float64, device=x.device),
        trajectory=(plan[: done + 1], trajectory) if trajectory is not None else None,
    )
