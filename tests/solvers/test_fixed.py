"""The loop on a grid: what the field is given, redrawn conditions, budgets, hooks, saved states, compilation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.fields.field import Evaluation
from flowkit.solvers.controllers import FixedSteps, Tolerance
from flowkit.solvers.dormand_prince import DormandPrince
from flowkit.solvers.euler import Euler
from flowkit.solvers.heun import Heun
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.save import DENSE, END, STEPS
from flowkit.solvers.sensitivity import Direct, Problem, Sensitivity
from flowkit.solvers.solve import solve
from flowkit.solvers.solver import Solution, Solver, Status, Step
from flowkit.times.grids import ShiftedGrid


def decay(x: Tensor, t: Tensor) -> Tensor:
    return -x * (1 + t[:, None])


def ones(n: int = 3) -> Tensor:
    return torch.ones(n, 2, dtype=torch.float64)


def test_euler_is_the_loop_one_writes_by_hand() -> None:
    x = want = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    for i in range(7):
        want = want + (1 / 7) * decay(want, torch.full((4,), i / 7))
    solution = solve(decay, x, solver=Euler(), controller=FixedSteps(7))
    torch.testing.assert_close(solution.x, want, rtol=1e-6, atol=1e-6)
    assert solution.evaluations.tolist() == solution.network_calls.tolist() == solution.accepted.tolist() == [7] * 4
    assert solution.rejected.tolist() == [0] * 4
    assert solution.ok


@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0), (-2.0, 6.0)])
def test_the_field_is_asked_at_the_times_of_the_grid_and_never_outside(span: tuple[float, float]) -> None:
    seen: list[float] = []

    def field(x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (3,)
        assert (t == t[0]).all()
        seen.append(t[0].item())
        return x

    solve(field, ones(), solver=Heun(), controller=FixedSteps(4, ShiftedGrid(3.0)), span=span)
    grid = [span[0] + (span[1] - span[0]) * u for u in ShiftedGrid(3.0).points(4).tolist()]
    assert seen[0] == span[0]
    assert seen[-1] == span[1]
    assert seen == pytest.approx([grid[0], grid[1], grid[1], grid[2], grid[2], grid[3], grid[3], grid[4]])


def test_plain_functions_may_take_the_condition() -> None:
    cond = Cond({"rate": torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)})
    arguments = {"solver": Euler(), "controller": FixedSteps(1), "cond": cond}

    class Callable:
        def __call__(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
            return x * cond["rate"][:, None]

        def method(self, x: Tensor, t: Tensor) -> Tensor:
            return x

    class Module(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x

    want = torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64)
    assert torch.equal(solve(lambda x, t, cond: x * cond["rate"][:, None], ones(), **arguments).x[:, 0], want)
    assert torch.equal(solve(lambda x, t, c: x * c["rate"][:, None], ones(), **arguments).x[:, 0], want)
    assert torch.equal(solve(lambda x, t, cond=None: x * cond["rate"][:, None], ones(), **arguments).x[:, 0], want)
    assert torch.equal(solve(Callable(), ones(), **arguments).x[:, 0], want)
    for without in (lambda x, t: x, lambda x, t, scale=1.0: x * scale, Callable().method, Module()):
        assert torch.equal(solve(without, ones(), **arguments).x, 2 * ones())
    heads = solve(lambda x, t: Evaluation(x, {"a": t}), ones(), **arguments)
    assert torch.equal(heads.x, 2 * ones())


def test_a_redrawn_condition_is_drawn_before_every_evaluation_and_wants_fixed_steps() -> None:
    drawn: list[tuple[int, float]] = []

    def redraw(cond: Cond, t: Tensor, step: int, generator) -> Cond:
        drawn.append((step, t[0].item()))
        return Cond({"noise": torch.rand(len(t), generator=generator, dtype=torch.float64)})

    cond = Cond({"noise": torch.zeros(3)}, redraw=redraw)

    def field(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return x * cond["noise"][:, None]

    def run() -> Tensor:
        generator = torch.Generator().manual_seed(5)
        return solve(field, ones(), solver=Heun(), controller=FixedSteps(2), cond=cond, generator=generator).x

    first = run()
    assert drawn == [(0, 0.0), (0, 0.5), (1, 0.5), (1, 1.0)]
    assert torch.equal(first, run())
    with pytest.raises(UserError, match="FixedSteps"):
        solve(field, ones(), solver=DormandPrince(), controller=Tolerance(), cond=cond)


def test_budget_on_a_grid() -> None:
    solution = solve(decay, ones(), solver=Heun(), controller=FixedSteps(10), max_evaluations=7, save=STEPS)
    assert (solution.status == Status.MAX_EVALUATIONS).all()
    assert solution.evaluations.tolist() == [6] * 3
    assert solution.stopped_at.tolist() == pytest.approx([0.3] * 3)
    same = solve(decay, ones(), solver=Heun(), controller=FixedSteps(3), span=(0.0, 0.3))
    torch.testing.assert_close(solution.x, same.x)
    assert solution.ts is not None
    assert len(solution.ts) == 4


def test_a_field_that_is_not_finite_on_a_grid_is_reported_per_sample() -> None:
    def field(x: Tensor, t: Tensor) -> Tensor:
        return torch.where(x > 2, torch.nan, torch.ones_like(x))

    x = torch.tensor([[0.0, 0.0], [0.0, 3.0]])
    solution = solve(field, x, solver=Euler(), controller=FixedSteps(4))
    assert solution.status.tolist() == [Status.OK, Status.NON_FINITE]
    padded = Cond(padding=torch.tensor([[True, True], [True, False]]))
    assert solve(field, x, solver=Euler(), controller=FixedSteps(4), cond=padded).ok


def test_saved_states() -> None:
    x = ones()
    steps = solve(decay, x, solver=Heun(), controller=FixedSteps(5), save=STEPS)
    assert steps.ts is not None
    assert steps.xs is not None
    assert steps.ts.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert steps.xs.shape == (6, 3, 2)
    end = solve(decay, x, solver=Heun(), controller=FixedSteps(5), save=END)
    assert end.xs is None
    for i, t in enumerate(steps.ts.tolist()[1:-1], 1):
        part = solve(decay, x, solver=Heun(), controller=FixedSteps(i), span=(0.0, t))
        torch.testing.assert_close(steps.xs[i], part.x)
    times = solve(decay, x, solver=Heun(), controller=FixedSteps(5), save=[1.0, 0.0, 0.4, 0.5])
    assert times.xs is not None
    assert torch.equal(times.xs[0], end.x)
    assert torch.equal(times.xs[1], x)
    assert torch.equal(times.xs[2], steps.xs[2])
    assert (times.xs[3] - torch.exp(torch.tensor(-0.625))).abs().max() < 0.01
    assert torch.equal(times.x, end.x)
    for method in (Heun(), DormandPrince()):
        dense = solve(decay, x, solver=method, controller=FixedSteps(5), save=DENSE)
        assert dense.dense is not None
        torch.testing.assert_close(dense.dense(1.0), dense.x)
        torch.testing.assert_close(dense.dense(0.0), x)
        torch.testing.assert_close(dense.dense(7.0), dense.x)
        mixed = dense.dense(torch.tensor([0.1, 0.5, 0.9]))
        for i, t in enumerate((0.1, 0.5, 0.9)):
            torch.testing.assert_close(mixed[i], dense.dense(t)[i])


def test_a_span_of_no_length_changes_nothing() -> None:
    for controller in (FixedSteps(3), Tolerance()):
        solution = solve(decay, ones(), solver=DormandPrince(), controller=controller, span=(0.5, 0.5), save=[0.5])
        assert torch.equal(solution.x, ones())
        assert solution.ok
        assert solution.evaluations.sum() == 0
        assert solution.xs is not None
        assert torch.equal(solution.xs[0], ones())


@pytest.mark.parametrize("controller", [FixedSteps(4), Tolerance(1e-4, 1e-4)])
def test_hooks_see_every_step_and_may_change_the_state(controller) -> None:
    seen = []

    def watch(index: int, t: Tensor, x: Tensor, evaluation: Evaluation | None) -> None:
        seen.append(
            (
                index,
                t.clone(),
                None if evaluation is None else (evaluation.v - decay(x, t.to(x.dtype))).abs().max().item(),
            )
        )

    method = Euler() if isinstance(controller, FixedSteps) else DormandPrince()
    plain = solve(decay, ones(), solver=method, controller=controller)
    watched = solve(decay, ones(), solver=method, controller=controller, hooks=[watch])
    assert torch.equal(plain.x, watched.x)
    assert torch.equal(plain.evaluations, watched.evaluations)
    assert [s[0] for s in seen] == list(range(len(seen)))
    assert seen[-1][2] is None
    assert (seen[-1][1] == 1).all()
    assert all(s[2] == 0 for s in seen[:-1])

    def hold(index: int, t: Tensor, x: Tensor, evaluation: Evaluation | None) -> Tensor:
        x = x.clone()
        x[:, 1] = 7.0
        return x

    held = solve(decay, ones(), solver=method, controller=controller, hooks=[hold])
    assert (held.x[:, 1] == 7).all()
    torch.testing.assert_close(held.x[:, 0], plain.x[:, 0], rtol=1e-3, atol=1e-3)
    assert (held.evaluations > plain.evaluations).all()


class AdamsBashforth(Solver):
    """Order 2 with one evaluation a step: the memory is the last slope and the last size."""

    order = 2
    evaluations = 1

    def start(self, t, x, first):
        return {"v": torch.zeros_like(x), "h": torch.zeros(len(x), dtype=torch.float64)}

    def step(self, field, t0, t1, x, first, memory, cond, *, size=None, estimate=True) -> Step:
        h = (t1 - t0).double()
        ratio = torch.where(memory["h"] == 0, 0.0, h / (2 * memory["h"]))[:, None]
        slope = (1 + ratio) * first.v - ratio * memory["v"]
        return Step(x + h[:, None] * slope, memory={"v": first.v, "h": h})


def test_memory_of_multistep_methods_travels() -> None:
    errors = []
    for n in (50, 100):
        solution = solve(decay, ones(), solver=AdamsBashforth(), controller=FixedSteps(n))
        errors.append((solution.x - torch.exp(torch.tensor(-1.5, dtype=torch.float64))).abs().max().item())
    assert 3.6 < errors[0] / errors[1] < 4.4


def test_fixed_steps_can_be_traced_without_a_break() -> None:
    """No value is read back in the loop: the whole solve is one graph."""
    program = Path(__file__).with_name("traced.py")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_sensitivity_gets_the_problem_and_the_loop() -> None:
    class Halves(Sensitivity):
        """Solves the two halves of the span one after the other."""

        def run(self, problem: Problem, integrate) -> Solution:
            import dataclasses

            start, end = problem.span
            middle = (start + end) / 2
            first = integrate(dataclasses.replace(problem, span=(start, middle)))
            return integrate(dataclasses.replace(problem, x=first.x, span=(middle, end)))

    halves = solve(decay, ones(), solver=Heun(), controller=FixedSteps(3), sensitivity=Halves())
    direct = solve(decay, ones(), solver=Heun(), controller=FixedSteps(6), sensitivity=Direct())
    torch.testing.assert_close(halves.x, direct.x)


def test_a_solution_survives_pickling() -> None:
    import pickle

    solution = solve(decay, ones(), solver=Heun(), controller=FixedSteps(3))
    again = pickle.loads(pickle.dumps(solution))
    assert again.evaluations.tolist() == [6, 6, 6]
    assert again.ok
    assert torch.equal(again.x, solution.x)


def test_sampler_gives_its_stepping() -> None:
    assert isinstance(Sampler(steps=4).stepping(), FixedSteps)
    tolerance = Tolerance()
    assert Sampler(controller=tolerance).stepping() is tolerance
