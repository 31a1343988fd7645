"""Steps per sample: the tolerance of each, the same decisions alone and in a batch, statuses, budgets, scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from flowkit.cond import Cond
from flowkit.fields.field import Evaluation, Field
from flowkit.solvers.bogacki_shampine import BogackiShampine
from flowkit.solvers.controllers import FixedSteps, Tolerance
from flowkit.solvers.dormand_prince import DormandPrince
from flowkit.solvers.euler import Euler
from flowkit.solvers.runge_kutta import RungeKutta
from flowkit.solvers.solve import solve
from flowkit.solvers.solver import Beginning, Controller, Judgement, Status, Step
from flowkit.solvers.tsitouras import Tsitouras
from flowkit.testing.mixture import GaussianMixture

PAIRS = [BogackiShampine, DormandPrince, Tsitouras]


class VanDerPol(Field):
    """x'' = mu (1 - x^2) x' - x with mu (b,) in the condition; counts the rows it sees. State (b, 2, n)."""

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Evaluation:
        assert cond is not None
        assert t.shape == (len(x),)
        assert len(cond["mu"]) == len(x)
        self.rows += len(x)
        mu = cond["mu"].reshape(-1, *[1] * (x.ndim - 2))
        place, speed = x.unbind(1)
        return Evaluation(torch.stack([speed, mu * (1 - place * place) * speed - place], 1))


class Recording(Tolerance):
    """A tolerance that works out the scaled error of every accepted step anew, sample by sample."""

    def __init__(self, rtol: float, atol: float) -> None:
        super().__init__(rtol, atol)
        self.accepted: list[float] = []
        self.rejected: list[float] = []

    def judge(self, x: Tensor, size: Tensor, step: Step, *, padding: Tensor | None, memory: Any) -> Judgement:
        judgement = super().judge(x, size, step, padding=padding, memory=memory)
        assert step.error is not None
        for i in range(len(x)):
            if size[i] == 0:
                continue
            keep = torch.ones_like(x[i], dtype=torch.bool) if padding is None else padding[i].expand_as(x[i])
            scale = self.atol + self.rtol * torch.maximum(x[i].abs(), step.x[i].abs())
            scaled = ((step.error[i] / scale)[keep] ** 2).mean().sqrt().item()
            (self.accepted if judgement.accepted[i] else self.rejected).append(scaled)
        return judgement


def stiffness(n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.logspace(-1, 1.3, n, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("method", PAIRS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_accepted_step_of_every_sample_keeps_the_tolerance(method: type[RungeKutta], dtype: torch.dtype) -> None:
    mu = stiffness(12, dtype)
    x = torch.tensor([2.0, 0.0], dtype=dtype).repeat(12, 1)
    controller = Recording(1e-4, 1e-5)
    solution = solve(VanDerPol(), x, solver=method(), controller=controller, span=(0.0, 5.0), cond=Cond({"mu": mu}))
    assert solution.ok
    assert max(controller.accepted) < 1
    assert min(controller.rejected) >= 1 - 1e-6
    assert len(controller.accepted) == int(solution.accepted.sum())
    assert len(controller.rejected) == int(solution.rejected.sum()) > 0
    # Easy samples are not held up by stiff ones.
    assert solution.evaluations[-1] > 2 * solution.evaluations[0]


def test_padding_counts_for_nothing() -> None:
    """Elements behind the padding are as wild as they like: same steps as without them, and the tolerance holds on the
    rest.
    """
    mu = stiffness(6)
    x = torch.tensor([2.0, 0.0], dtype=torch.float64).reshape(1, 2, 1).repeat(6, 1, 5)
    padding = torch.arange(5).reshape(1, 1, 5) < torch.tensor([5, 4, 3, 3, 2, 1]).reshape(6, 1, 1)
    field = VanDerPol()

    def wild(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        v = field(x, t, cond).v
        noise = torch.sin(1e3 * t).reshape(-1, 1, 1) * 1e3
        return torch.where(cond.padding, v, noise) if cond.padding is not None else v

    arguments = {"solver": DormandPrince(), "span": (0.0, 5.0)}
    controller = Recording(1e-5, 1e-5)
    padded = solve(wild, x, controller=controller, cond=Cond({"mu": mu}, padding=padding), **arguments)
    plain = solve(wild, x[..., :1], controller=Tolerance(1e-5, 1e-5), cond=Cond({"mu": mu}), **arguments)
    assert padded.ok
    assert max(controller.accepted) < 1
    assert torch.equal(padded.evaluations, plain.evaluations)
    torch.testing.assert_close(padded.x[..., :1], plain.x, rtol=1e-12, atol=1e-12)
    # Not-a-number in the padding is no failure either.
    nan = torch.where(padding, x, torch.nan)
    assert solve(wild, nan, controller=Tolerance(1e-5, 1e-5), cond=Cond({"mu": mu}, padding=padding), **arguments).ok


@pytest.mark.parametrize("method", PAIRS)
@pytest.mark.parametrize("n", [5, 16])
def test_same_steps_alone_and_in_a_batch_bit_for_bit(method: type[RungeKutta], n: int) -> None:
    mu = stiffness(n)
    x = torch.tensor([2.0, 0.0], dtype=torch.float64) + 0.1 * torch.arange(n, dtype=torch.float64)[:, None]
    arguments = {"solver": method(), "controller": Tolerance(1e-5, 1e-5), "span": (0.0, 5.0)}
    together = solve(VanDerPol(), x, cond=Cond({"mu": mu}), **arguments)
    for i in range(n):
        alone = solve(VanDerPol(), x[i : i + 1], cond=Cond({"mu": mu[i : i + 1]}), **arguments)
        assert torch.equal(alone.x[0], together.x[i])
        for name in ("evaluations", "accepted", "rejected", "network_calls", "status", "stopped_at"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[i]), name


@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0)])
def test_same_decisions_on_the_mixture_oracle(span: tuple[float, float]) -> None:
    mixture = GaussianMixture([0.6, 0.4], [[3.0, 0.0, 1.0], [-3.0, 1.0, 0.0]], [0.02, 0.5])
    x = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    arguments = {"solver": DormandPrince(), "controller": Tolerance(1e-6, 1e-6), "span": span}
    together = solve(mixture.field(), x, **arguments)
    assert together.ok
    assert len(together.evaluations.unique()) > 3
    for i in range(20):
        alone = solve(mixture.field(), x[i : i + 1], **arguments)
        assert alone.accepted[0] == together.accepted[i]
        assert alone.rejected[0] == together.rejected[i]
        torch.testing.assert_close(alone.x[0], together.x[i], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("method", PAIRS)
def test_agrees_with_scipy(method: type[RungeKutta]) -> None:
    mu = stiffness(5)
    x = torch.tensor([2.0, 0.0], dtype=torch.float64).repeat(5, 1)
    tolerance = 1e-7 if method is BogackiShampine else 1e-9
    times = [0.0, 0.5, 1.7, 3.0]
    solution = solve(
        VanDerPol(),
        x,
        solver=method(),
        controller=Tolerance(tolerance, tolerance),
        span=(0.0, 3.0),
        cond=Cond({"mu": mu}),
        save=times,
    )
    assert solution.ok
    assert solution.xs is not None
    for i, m in enumerate(mu.tolist()):
        reference = solve_ivp(
            lambda t, y, m=m: [y[1], m * (1 - y[0] ** 2) * y[1] - y[0]],
            (0, 3),
            [2.0, 0.0],
            method="DOP853",
            rtol=1e-12,
            atol=1e-12,
            t_eval=times,
        )
        np.testing.assert_allclose(solution.xs[:, i].numpy(), reference.y.T, atol=1e-5, rtol=1e-5)
    assert torch.equal(solution.xs[-1], solution.x)
    assert torch.equal(solution.xs[0], x)


def test_backward_in_time_is_the_negated_field() -> None:
    def field(x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(x) * (1 + t[:, None])

    def negated(x: Tensor, t: Tensor) -> Tensor:
        return -field(x, 2.0 - t)

    x = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    arguments = {"solver": DormandPrince(), "controller": Tolerance(1e-8, 1e-8)}
    backward = solve(field, x, span=(2.0, 0.0), **arguments)
    forward = solve(negated, x, span=(0.0, 2.0), **arguments)
    assert torch.equal(backward.accepted, forward.accepted)
    torch.testing.assert_close(backward.x, forward.x, rtol=1e-12, atol=1e-12)
    assert torch.equal(backward.stopped_at, torch.zeros(6, dtype=torch.float64))
    there = solve(field, backward.x, span=(0.0, 2.0), **arguments)
    torch.testing.assert_close(there.x, x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("span", [(0.0, 1000.0), (5.0, 5.001), (-3.0, 2.0)])
def test_spans_in_other_units(span: tuple[float, float]) -> None:
    scale = span[1] - span[0]

    def field(x: Tensor, t: Tensor) -> Tensor:
        return -x * ((t - span[0]) / scale)[:, None] / scale

    x = torch.ones(3, 2, dtype=torch.float64)
    solution = solve(field, x, solver=DormandPrince(), controller=Tolerance(1e-8, 1e-8), span=span)
    assert solution.ok
    assert (solution.stopped_at == span[1]).all()
    torch.testing.assert_close(solution.x, x * np.exp(-0.5), rtol=1e-6, atol=1e-6)


def test_finished_samples_leave_the_batch_and_counts_are_per_sample() -> None:
    mu = stiffness(32)
    x = torch.tensor([2.0, 0.0], dtype=torch.float64).repeat(32, 1)
    field = VanDerPol()
    solution = solve(
        field, x, solver=DormandPrince(), controller=Tolerance(1e-5, 1e-5), span=(0.0, 10.0), cond=Cond({"mu": mu})
    )
    assert torch.equal(solution.evaluations, 2 + 6 * (solution.accepted + solution.rejected))
    assert torch.equal(solution.network_calls, solution.evaluations)
    # The field is asked about few rows more than those that were still under way.
    assert int(solution.evaluations.sum()) <= field.rows <= 1.1 * int(solution.evaluations.sum())


def test_network_calls_of_guided_fields_are_counted_as_they_are() -> None:
    def two(x: Tensor, t: Tensor) -> Evaluation:
        return Evaluation(-x * (1 + 5 * t[:, None]), calls=2)

    def interval(x: Tensor, t: Tensor) -> Evaluation:
        return Evaluation(-x, calls=1 + (t < 0.5).long())

    x = torch.rand(3, 2, dtype=torch.float64) + torch.arange(3)[:, None]
    solution = solve(two, x, solver=DormandPrince(), controller=Tolerance())
    assert torch.equal(solution.network_calls, 2 * solution.evaluations)
    solution = solve(interval, x, solver=Euler(), controller=FixedSteps(10))
    assert solution.network_calls.tolist() == [15, 15, 15]
    assert solution.evaluations.tolist() == [10, 10, 10]
    solution = solve(interval, x, solver=DormandPrince(), controller=Tolerance(1e-8, 1e-8))
    assert (solution.network_calls > solution.evaluations).all()
    assert (solution.network_calls < 2 * solution.evaluations).all()


def test_budget_returns_the_state_that_was_reached() -> None:
    mu = stiffness(6)
    x = torch.tensor([2.0, 0.0], dtype=torch.float64).repeat(6, 1)
    arguments = {
        "solver": DormandPrince(),
        "controller": Tolerance(1e-5, 1e-5),
        "span": (0.0, 10.0),
        "cond": Cond({"mu": mu}),
    }
    full = solve(VanDerPol(), x, **arguments)
    budget = int(full.evaluations.median())
    cut = solve(VanDerPol(), x, max_evaluations=budget, **arguments)
    assert (cut.evaluations <= budget).all()
    done = full.evaluations <= budget
    assert done.any()
    assert not done.all()
    assert torch.equal(cut.status == Status.OK, done)
    assert (cut.status[~done] == Status.MAX_EVALUATIONS).all()
    assert torch.equal(cut.x[done], full.x[done])
    assert (cut.stopped_at[~done] < 10).all()
    assert (cut.stopped_at[~done] > 0).all()
    assert cut.x.isfinite().all()
    assert "raise max_evaluations" in cut.explain(int((~done).nonzero()[0]))
    assert not cut.ok


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_field_that_breaks_stops_only_its_samples(dtype: torch.dtype) -> None:
    def field(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return torch.where((t > cond["wall"])[:, None], torch.nan, torch.ones_like(x))

    cond = Cond({"wall": torch.tensor([2.0, 0.5, 0.25, -1.0], dtype=dtype)})
    solution = solve(field, torch.zeros(4, 3, dtype=dtype), solver=DormandPrince(), controller=Tolerance(), cond=cond)
    assert solution.status.tolist() == [Status.OK, Status.NON_FINITE, Status.NON_FINITE, Status.NON_FINITE]
    assert solution.x.isfinite().all()
    torch.testing.assert_close(
        solution.stopped_at, torch.tensor([1.0, 0.5, 0.25, 0.0], dtype=torch.float64), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(solution.x[:, 0].double(), solution.stopped_at, atol=1e-5, rtol=0)
    assert solution.rejected[1] > 0
    assert "not finite" in solution.explain(1)
    assert "arrived at t = 1" in solution.explain(0)
    assert solution.evaluations.max() < 1000


def test_a_pole_is_reported_and_not_raised() -> None:
    """x' = x^2 from 1 has no solution beyond t = 1."""
    x = torch.tensor([[1.0], [0.1]], dtype=torch.float64)
    solution = solve(lambda x, t: x * x, x, solver=DormandPrince(), controller=Tolerance(1e-6, 1e-6), span=(0.0, 2.0))
    assert solution.status[0] in (Status.STEP_TOO_SMALL, Status.NON_FINITE, Status.MAX_EVALUATIONS)
    assert solution.status[1] == Status.OK
    assert solution.stopped_at[0].item() == pytest.approx(1.0, abs=1e-3)
    assert solution.x[1].item() == pytest.approx(1 / (10 - 2), rel=1e-4)


def test_a_step_too_small_for_time_is_reported() -> None:
    class Impatient(Tolerance):
        def judge(self, x: Tensor, size: Tensor, step: Step, *, padding: Tensor | None, memory: Any) -> Judgement:
            judgement = super().judge(x, size, step, padding=padding, memory=memory)
            return Judgement(torch.zeros_like(judgement.accepted), memory._replace(size=size * 0.01))

    solution = solve(
        lambda x, t: -x, torch.ones(2, 2, dtype=torch.float64), solver=DormandPrince(), controller=Impatient()
    )
    assert (solution.status == Status.STEP_TOO_SMALL).all()
    assert "resolution of time" in solution.explain(0)
    assert torch.equal(solution.x, torch.ones(2, 2, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_states_keep_their_dtype_and_get_float32_times(dtype: torch.dtype) -> None:
    seen = set()

    def field(x: Tensor, t: Tensor) -> Tensor:
        seen.add((x.dtype, t.dtype))
        return -x

    for method in PAIRS:
        solution = solve(field, torch.ones(3, 4, dtype=dtype), solver=method(), controller=Tolerance(1e-2, 1e-2))
        assert solution.ok
        assert solution.x.dtype == dtype
        assert (solution.x.float() - np.exp(-1)).abs().max() < 0.02
    solve(field, torch.ones(3, 4, dtype=dtype), solver=Euler(), controller=FixedSteps(3))
    assert seen == {(dtype, torch.float32)}


def test_states_of_any_shape_and_constant_fields() -> None:
    for shape in ((4,), (4, 1), (4, 3, 5, 2), (1, 40)):
        x = torch.ones(shape, dtype=torch.float64)
        solution = solve(lambda x, t: torch.ones_like(x), x, solver=DormandPrince(), controller=Tolerance())
        torch.testing.assert_close(solution.x, x + 1, rtol=1e-12, atol=1e-12)
        zero = solve(lambda x, t: torch.zeros_like(x), x, solver=Tsitouras(), controller=Tolerance(1e-3, 0.0))
        assert torch.equal(zero.x, x)
        assert zero.ok
        zero = solve(lambda x, t: 0 * x, 0 * x, solver=Tsitouras(), controller=Tolerance(1e-3, 0.0))
        assert zero.ok


class HeadSteps(Controller):
    """Steps read off a head of the field, as AdaFlow does: the method without an error estimate, the memory a count per
    sample.
    """

    def begin(self, field, t, x, first, *, end, solver, cond) -> Beginning:
        return Beginning(torch.zeros_like(t))

    def propose(self, t: Tensor, x: Tensor, first: Evaluation, *, end: float, memory: Tensor) -> tuple[Tensor, Tensor]:
        assert first.heads["size"].shape == t.shape
        return t + first.heads["size"], memory + 1

    def judge(self, x: Tensor, size: Tensor, step: Step, *, padding: Tensor | None, memory: Tensor) -> Judgement:
        assert memory.shape == size.shape
        return Judgement(torch.ones_like(size, dtype=torch.bool), memory)


def test_a_controller_may_read_the_heads_of_the_field() -> None:
    sizes = torch.tensor([1.0, 0.5, 0.25, 2.0, 0.1], dtype=torch.float64)

    def field(x: Tensor, t: Tensor, cond: Cond) -> Evaluation:
        return Evaluation(torch.ones_like(x), {"size": cond["size"]})

    x = torch.zeros(5, 2, dtype=torch.float64)
    solution = solve(field, x, solver=Euler(), controller=HeadSteps(), cond=Cond({"size": sizes}))
    assert solution.evaluations.tolist() in ([1, 2, 4, 1, 10], [1, 2, 4, 1, 11])
    assert torch.equal(solution.evaluations, solution.accepted)
    torch.testing.assert_close(solution.x, torch.ones_like(x))
    assert (solution.stopped_at == 1.0).all()
