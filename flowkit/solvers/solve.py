"""The only integration loop: dx/dt = v(x, t) from one end of the span to the other.

This is the door: arguments are checked here and handed to the loop, which runs in one of two gaits,
:mod:`flowkit.solvers.fixed_loop` (all samples in step) or :mod:`flowkit.solvers.adaptive_loop` (each sample with its
own time and step).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.fields.field import Evaluation, Field, FunctionField
from flowkit.random import RandomSource
from flowkit.solvers.adaptive_loop import run_adaptive
from flowkit.solvers.controllers import Tolerance
from flowkit.solvers.fixed_loop import run_fixed
from flowkit.solvers.save import END, Save, SavePlan
from flowkit.solvers.scanned_loop import run_scanned, scans
from flowkit.solvers.sensitivity import Direct, Hook, Problem, Sensitivity
from flowkit.solvers.solver import Controller, Solution, Solver

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
        controller: ``FixedSteps(steps, grid)`` or ``Tolerance(rtol, atol)``; ``Tolerance()`` where the solver estimates
            its error.
        span: from, to; swapped it goes backward in time, and other units than [0, 1] are fine.
        cond: the condition, handed to the field; its ``padding`` says which elements count for a tolerance.
        save: END, STEPS (fixed grids: all states), times, or DENSE (a callable in ``Solution.dense``).
        sensitivity: how gradients go through the solve.
        max_evaluations: budget per sample; a sample that would exceed it stops where it is, with a status.
        generator: for conditions that are redrawn in the solve.
        hooks: each is called as hook(index, t, x, evaluation) before step ``index`` with the state and the field there,
            and once more at the end with the evaluation None; a tensor it returns replaces the state. They keep
            finished samples in the batch, which then wait.

    Returns:
        The solution; a sample that could not be finished has a status other than OK and its last good state.

    Raises:
        UserError: an argument does not fit (an adaptive controller with a redrawn condition or a solver without an
            error estimate, ...).
    """
    start, end = float(span[0]), float(span[1])
    if not (math.isfinite(start) and math.isfinite(end)):
        raise UserError(f"solve: the span must be two finite times, not {span}")
    if not x.is_floating_point() or x.ndim < 1:
        raise UserError(
            f"solve: the state must be a floating tensor with the batch first, not {x.dtype} of shape {tuple(x.shape)}"
        )
    if controller is None:
        controller = _default_controller(solver)
    if controller.needs_error and solver.error_order is None:
        raise UserError(
            f"solve: {type(solver).__name__} does not estimate its error, so {type(controller).__name__} cannot "
            "steer it: use FixedSteps, or DormandPrince, Tsitouras or BogackiShampine"
        )
    as_field = field if isinstance(field, Field) else FunctionField(field, takes_cond=_takes_cond(field))
    problem = Problem(as_field, x, solver, controller, (start, end), cond, save, max_evaluations, generator, hooks)
    return sensitivity.run(problem, integrate)


def integrate(problem: Problem) -> Solution:
    """The loop, without the checks of :func:`solve`: what a :class:`Sensitivity` runs."""
    start, end = problem.span
    # An empty span is a grid without steps.
    plan = problem.controller.plan(problem.span) if start != end else (start,)
    if plan is not None:
        return run_scanned(problem, plan) if scans(problem, plan) else run_fixed(problem, plan)
    if problem.cond is not None and problem.cond.varies:
        raise UserError(
            "solve: the condition is redrawn at every evaluation, so steps cannot be chosen by an error: use FixedSteps"
        )
    if problem.save is Save.STEPS:
        raise UserError(
            "solve: save=STEPS needs FixedSteps, for adaptive steps differ by sample: give times, or save=DENSE"
        )
    return run_adaptive(problem)


def _default_controller(solver: Solver) -> Controller:
    if solver.error_order is None:
        name = type(solver).__name__
        raise UserError(
            f"solve: {name} does not estimate its error: say controller=FixedSteps(steps), or take DormandPrince()"
        )
    return Tolerance()


def _takes_cond(function: Callable[..., object]) -> bool:
    """Is it ``(x, t, cond)`` rather than ``(x, t)``? The third parameter must have no default, or be called cond."""
    if isinstance(function, nn.Module):
        function = function.forward
    code, bound = getattr(function, "__code__", None), 0
    if code is None and hasattr(function, "__func__"):
        code, bound = function.__func__.__code__, 1  # pyright: ignore[reportFunctionMemberAccess]
    if (
        code is not None
        and code.co_argcount - bound == 2
        and not code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
    ):
        return False  # the common case, without the cost of a signature
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return False
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return True
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(positional) < 2 or any(p.default is p.empty for p in positional[3:]):
        raise UserError(
            f"solve: the field must be a Field or a function (x, t) or (x, t, cond), not {inspect.signature(function)}"
        )
    return len(positional) > 2 and (positional[2].default is positional[2].empty or positional[2].name == "cond")
