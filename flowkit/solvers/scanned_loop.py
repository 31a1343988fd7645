"""The loop on a fixed grid as one operation, for programs: a step is traced once, however many there are.

``torch.scan`` becomes a Scan of ONNX, so neither a program nor the time that its exporters take grows with the steps.
Steps that differ in kind stay one after the other: those of methods with a memory or with cases at the ends of time,
and those whose condition is redrawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise

import torch
from torch import Tensor

from flowkit.solvers.runge_kutta import RungeKutta
from flowkit.solvers.save import Save
from flowkit.solvers.sensitivity import Problem
from flowkit.solvers.solver import Solution, Status, time_dtype

#: Fewer steps are no smaller as a loop.
LEAST = 3
_SCANNING: ContextVar[bool] = ContextVar("scanning", default=False)


@contextmanager
def scanning() -> Iterator[None]:
    """Inside, solves that can be are made by :func:`run_scanned`."""
    token = _SCANNING.set(True)
    try:
        yield
    finally:
        _SCANNING.reset(token)


def scans(problem: Problem, plan: Sequence[float]) -> bool:
    """Whether this solve should be one operation."""
    # Where torch.compile reads this code it could not read the context's variable.
    return (
        not torch.compiler.is_dynamo_compiling()
        and _SCANNING.get()
        and len(plan) > LEAST
        and isinstance(problem.solver, RungeKutta)
        and problem.save is Save.END
        and not problem.hooks
        and not (problem.cond is not None and problem.cond.varies)
        and problem.solver.evaluations * (len(plan) - 1) <= problem.max_evaluations
    )


def run_scanned(problem: Problem, plan: Sequence[float]) -> Solution:
    """As :func:`flowkit.solvers.fixed_loop.run_fixed`; the network calls are not counted, but taken for one each."""
    from torch._higher_order_ops.scan import scan  # a prototype of torch, without a public name yet

    field, solver, cond, like = problem.field, problem.solver, problem.cond, problem.x
    assert isinstance(solver, RungeKutta)  # `scans` has asked
    rows, dtype = like.shape[0], time_dtype(like)
    sizes = [end - start for start, end in pairwise(plan)]
    columns = tuple(torch.tensor(values, dtype=dtype, device=like.device) for values in (plan[:-1], plan[1:], sizes))

    field.ready(cond)

    def step(x: Tensor, at: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        t0, t1 = at[0].expand(rows), at[1].expand(rows)
        made = solver.step(field, t0, t1, x, field(x, t0, cond), None, cond, size=at[2], estimate=False)
        return made.x, at[0].clone()

    x, _ = scan(step, like, columns)
    evaluations = solver.evaluations * len(sizes)
    return Solution.on_demand(
        x, evaluations=evaluations, network_calls=evaluations, accepted=len(sizes), rejected=0,
        status=lambda: torch.full((rows,), int(Status.OK)), stopped_at=plan[-1],
    )  # fmt: skip
