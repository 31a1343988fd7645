"""AdaFlow's step rule against closed forms: two points +-m, a Gaussian; its bound, its limits, its clock."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.fields.field import Evaluation, Field
from flowkit.fields.reschedule import Rescheduled
from flowkit.paths.linear import LinearPath
from flowkit.paths.power import PowerPath
from flowkit.solvers.controllers import FixedSteps
from flowkit.solvers.euler import Euler
from flowkit.solvers.heun import Heun
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.save import DENSE
from flowkit.solvers.solve import solve
from flowkit.solvers.solver import Controller, Status
from flowkit.solvers.variance_adaptive import VarianceAdaptive
from flowkit.testing import GaussianMixture

NOISES = 4000


class TwoPoints(Field):
    """x1 = +-m with equal odds, m (b,) in the condition, linear path: v = (m q - x) / (1 - t) and
    sigma = m sqrt(1 - q^2) / (1 - t) with q = tanh(t m x / (1 - t)^2). Counts the rows it is asked about.
    """

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Evaluation:
        assert cond is not None
        self.rows.append(len(x))
        m, t = cond["m"].to(x.dtype), t.to(x.dtype)
        q = torch.tanh(t * m * x / (1 - t) ** 2)
        sigma = m * torch.sqrt((1 - q) * (1 + q)) / (1 - t)
        return Evaluation((m * q - x) / (1 - t), {"log_sigma": sigma.log()})


class Gaussian(Field):
    """x1 ~ N(0, r^2 I), q = t^2 r^2 + (1 - t)^2: v = (t r^2 - (1 - t)) / q x, and sigma^2 = r^2 / q an element."""

    path = LinearPath()

    def __init__(self, r: float) -> None:
        self.r = r

    def slope(self, t: Tensor) -> Tensor:
        return (t * self.r**2 - (1 - t)) / (t**2 * self.r**2 + (1 - t) ** 2)

    def log_sigma(self, t: Tensor) -> Tensor:
        return math.log(self.r) - 0.5 * (t**2 * self.r**2 + (1 - t) ** 2).log()

    def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Evaluation:
        wide = self.slope(t).to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        return Evaluation(wide * x, {"log_sigma": self.log_sigma(t)})


@pytest.mark.parametrize("r", [0.02, 0.5, 1.0, 3.0])
def test_the_spread_of_a_gaussian_is_the_closed_form(r: float) -> None:
    """sqrt(r^2 / (t^2 r^2 + (1 - t)^2)) an element: r at t = 0, 1 at t = 1 however small r, most at 1 / (1 + r^2)."""
    t = torch.cat((torch.linspace(0, 1, 51, dtype=torch.float64), torch.tensor([1 / (1 + r**2)]).double()))
    oracle = GaussianMixture([1.0], [[0.3, -1.0, 2.0]], r)
    x = torch.randn(52, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spread = (oracle.velocity_variance(x, t) / 3).sqrt()
    torch.testing.assert_close(Gaussian(r).log_sigma(t).exp(), spread)
    assert spread[0].item() == pytest.approx(r)
    assert spread[50].item() == pytest.approx(1.0)
    assert spread.max().item() == pytest.approx(spread[51].item(), rel=1e-12)
    assert spread[51].item() == pytest.approx(math.sqrt(1 + r**2))


def noises(n: int = NOISES) -> Tensor:
    """Stratified draws of N(0, 1), float64."""
    return torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)


def wasserstein_to_points(x: Tensor, m: float) -> float:
    """W2 of a set on the line to +-m with equal weights."""
    half = len(x) // 2
    points = torch.cat([torch.full((half,), -m), torch.full((len(x) - half,), m)]).to(x)
    return (x.sort().values - points).square().mean().sqrt().item()


def toy(controller: Controller) -> tuple[float, float, list[Tensor]]:
    """The card's toy: m = max(x, 0) for 41 states x of [-5, 5]. Root mean square over x of W2; mean evaluations; all
    of them by state.
    """
    square, counts = 0.0, []
    states = torch.linspace(-5, 5, 41, dtype=torch.float64).clamp_min(0).tolist()
    for m in states:
        cond = Cond({"m": torch.full((NOISES,), m)})
        solution = solve(TwoPoints(), noises(), solver=Euler(), controller=controller, cond=cond)
        assert solution.ok
        square += wasserstein_to_points(solution.x, m) ** 2 / len(states)
        counts.append(solution.evaluations)
    return math.sqrt(square), torch.cat(counts).double().mean().item(), counts


@pytest.mark.parametrize(
    ("eta", "most", "evaluations", "error"), [(0.5, 5, 2.1, 0.10), (0.35, 5, 2.25, 0.05), (0.1, 20, 4.9, 0.0018)]
)
def test_the_toy_of_the_card(eta: float, most: int, evaluations: float, error: float) -> None:
    distance, mean, counts = toy(VarianceAdaptive(eta, most))
    assert distance <= error
    assert mean <= evaluations
    # One call where the answer is certain; several where it is not, and never above the limit.
    assert all((count == 1).all() for count in counts[:21])
    assert all((count > 1).any() for count in counts[26:])
    assert max(int(count.max()) for count in counts) <= most


def test_it_beats_uniform_steps_of_the_same_cost() -> None:
    """The gain is between states: two uniform steps are wasted where one does, and too few where it does not."""
    uniform, _, _ = toy(FixedSteps(2))
    adaptive, mean, _ = toy(VarianceAdaptive(0.5, 5))
    assert uniform == pytest.approx(0.622, abs=0.002)  # the card's measurement
    assert mean < 2.1
    assert adaptive < 0.2 * uniform


@pytest.mark.parametrize("m", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(("t", "size"), [(0.0, 0.2), (0.0, 0.6), (0.3, 0.3), (0.6, 0.1), (0.7, 0.3)])
def test_one_step_is_off_by_at_most_its_size_times_the_spread(m: float, t: float, size: float) -> None:
    """W2(law after one Euler step from p_t, p_{t + size})^2 <= size^2 E sigma^2."""
    a = torch.tensor([-m, m], dtype=torch.float64).repeat_interleave(NOISES)
    x = t * a + (1 - t) * noises().repeat(2)
    at = torch.full_like(x, t)
    evaluation = TwoPoints()(x, at, Cond({"m": torch.full_like(x, m)}))
    after = (x + size * evaluation.v).sort().values
    true = ((t + size) * a + (1 - t - size) * noises().repeat(2)).sort().values
    spread = evaluation.heads["log_sigma"].exp().square().mean()
    distance = (after - true).square().mean()
    assert distance <= size**2 * spread * (1 + 1e-6) + 1e-20
    if t == 0 and size > 0.5:  # and the bound means something
        assert distance > 1e-3 * size**2 * spread


@pytest.mark.parametrize(("dtype", "backward"), [(torch.float32, False), (torch.float32, True), (torch.float64, False)])
def test_the_clock_ends_exactly_at_the_end_in_at_most_n_steps(dtype: torch.dtype, backward: bool) -> None:
    span = (1.0, 0.0) if backward else (0.0, 1.0)

    def field(x: Tensor, t: Tensor, cond: Cond) -> Evaluation:
        return Evaluation(torch.ones_like(x), {"log_sigma": cond["l"]})

    spreads = torch.tensor([math.inf, math.nan, 3.0, 1.7, 0.9, 0.0, -0.8, -1.0, -1.7, -2.3, -math.inf])
    cond = Cond({"l": spreads})
    x = torch.zeros(len(spreads), 2, dtype=dtype)
    for most in range(1, 101):
        solution = solve(field, x, solver=Euler(), controller=VarianceAdaptive(0.1, most), span=span, cond=cond)
        assert (solution.stopped_at == span[1]).all()
        assert (solution.evaluations <= most).all()
        assert (solution.evaluations[:2] == most).all()
        assert solution.evaluations[-1] == 1
        torch.testing.assert_close(solution.x, torch.full_like(x, span[1] - span[0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("span", [(0.0, 1.0), (0.25, 1.0), (0.9, 0.1), (-3.0, 5.0)])
def test_steps_are_eta_over_sigma_and_never_below_the_span_over_n(span: tuple[float, float]) -> None:
    length = abs(span[1] - span[0])
    sigma = torch.tensor([0.0, 0.1, 1.0, 7.0, 100.0, math.nan], dtype=torch.float64)
    times: list[Tensor] = []

    def field(x: Tensor, t: Tensor, cond: Cond) -> Evaluation:
        times.append(t)
        return Evaluation(torch.zeros_like(x), {"log_sigma": cond["sigma"].log()})

    eta, most = 0.3, 9
    x = torch.zeros(6, 3, dtype=torch.float64)
    controller = VarianceAdaptive(eta, most)
    first = field(x, torch.full((6,), span[0], dtype=torch.float64), Cond({"sigma": sigma}))
    t = torch.full((6,), span[0], dtype=torch.float64)
    memory = controller.begin(Gaussian(1.0), t, x, first, end=span[1], solver=Euler(), cond=None).memory
    proposed, _ = controller.propose(t, x, first, end=span[1], memory=memory)
    expected = (eta / sigma).nan_to_num(nan=0.0).clamp(length / most, length)
    torch.testing.assert_close((proposed - t).abs(), expected)
    assert ((proposed - t).sign() == math.copysign(1, span[1] - span[0])).all()


def test_no_tolerance_is_one_euler_step_bit_for_bit() -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    for field in (Gaussian(0.7), lambda x, t: Evaluation(-x, {"log_sigma": torch.full_like(t, math.nan)})):
        adaptive = solve(field, x, solver=Euler(), controller=VarianceAdaptive(math.inf, 50))
        plain = solve(field, x, solver=Euler(), controller=FixedSteps(1))
        assert torch.equal(adaptive.x, plain.x)
        assert (adaptive.evaluations == 1).all()


@pytest.mark.parametrize("steps", [1, 2, 7, 12, 19, 100])
@pytest.mark.parametrize("method", [Euler, Heun])
def test_no_error_allowed_is_the_uniform_grid(steps: int, method: type[Euler]) -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    adaptive = solve(Gaussian(0.7), x, solver=method(), controller=VarianceAdaptive(0.0, steps))
    plain = solve(Gaussian(0.7), x, solver=method(), controller=FixedSteps(steps))
    torch.testing.assert_close(adaptive.x, plain.x, rtol=0, atol=1e-6 if steps < 50 else 4e-6)
    assert torch.equal(adaptive.evaluations, plain.evaluations)
    assert (adaptive.accepted == steps).all()


def test_order_one_in_eta_and_the_count_follows_the_integral_of_sigma() -> None:
    """Card 30: r = 1, smallest step 1e-6: 13, 25, 50, 100 steps miss the deviation by .0946, .0487, .0247, .0124."""
    x = torch.ones(1, 1, dtype=torch.float64)
    for eta, steps, miss in ((0.1, 13, 0.0946), (0.05, 25, 0.0487), (0.025, 50, 0.0247), (0.0125, 100, 0.0124)):
        solution = solve(Gaussian(1.0), x, solver=Euler(), controller=VarianceAdaptive(eta, 1_000_000))
        assert int(solution.evaluations) == steps
        assert abs(float(solution.x) - 1.0) == pytest.approx(miss, abs=6e-5)
        assert steps * eta == pytest.approx(1.2465, abs=1.1 * eta)


def test_alone_and_in_a_batch_a_sample_takes_the_same_steps() -> None:
    m = torch.linspace(0, 5, 30, dtype=torch.float64)
    x = noises(30)[torch.randperm(30, generator=torch.Generator().manual_seed(1))]
    controller = VarianceAdaptive(0.3, 12)
    together = solve(TwoPoints(), x, solver=Euler(), controller=controller, cond=Cond({"m": m}))
    assert len(together.evaluations.unique()) > 3
    for i in range(30):
        alone = solve(TwoPoints(), x[i : i + 1], solver=Euler(), controller=controller, cond=Cond({"m": m[i : i + 1]}))
        assert alone.evaluations[0] == together.evaluations[i]
        torch.testing.assert_close(alone.x[0], together.x[i], rtol=1e-12, atol=1e-12)


def test_samples_that_have_arrived_are_not_evaluated_again() -> None:
    """One state needs several steps and 99 need one: a few rows more than 100, not hundreds."""
    m = torch.zeros(100, dtype=torch.float64)
    m[17] = 5.0
    field = TwoPoints()
    x = torch.zeros(100, dtype=torch.float64) + 0.1
    solution = solve(field, x, solver=Euler(), controller=VarianceAdaptive(0.01, 5), cond=Cond({"m": m}))
    steps = int(solution.evaluations[17])
    assert 2 < steps <= 5
    assert int(solution.evaluations.sum()) == 99 + steps
    assert field.rows == [100, *[1] * (steps - 1)]
    # Dense output needs the field at the end of a step, so it costs more; the answer is the same.
    dense = solve(TwoPoints(), x, solver=Euler(), controller=VarianceAdaptive(0.01, 5), cond=Cond({"m": m}), save=DENSE)
    torch.testing.assert_close(dense.x, solution.x)


def test_a_budget_of_n_is_enough_for_n_steps() -> None:
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    for budget in (1, 2, 5):
        enough = solve(
            Gaussian(1.0), x, solver=Euler(), controller=VarianceAdaptive(0.0, budget), max_evaluations=budget
        )
        assert enough.ok
        assert (enough.evaluations == budget).all()
        short = solve(
            Gaussian(1.0), x, solver=Euler(), controller=VarianceAdaptive(0.0, budget + 1), max_evaluations=budget
        )
        assert (short.status == Status.MAX_EVALUATIONS).all()
        assert (short.evaluations == budget).all()


def test_hooks_see_every_step_and_the_field_there() -> None:
    seen: list[tuple[int, float]] = []

    def hook(index: int, t: Tensor, x: Tensor, first: Evaluation | None) -> None:
        if first is not None:
            seen.append((index, float(t[0])))
            torch.testing.assert_close(first.v, Gaussian(1.0)(x, t.float()).v)

    x = torch.randn(1, 2, generator=torch.Generator().manual_seed(0))
    solve(Gaussian(1.0), x, solver=Euler(), controller=VarianceAdaptive(0.0, 4), hooks=[hook])
    assert seen == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75)]


def test_a_field_on_another_path_tells_the_spread_of_its_own_velocity() -> None:
    """On t^2: dx/dt = 2 t (x1 - x0), so sigma is that of the linear path at t^2, times 2 t."""
    field, t = Gaussian(0.4), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    moved = Rescheduled(field, PowerPath(2.0))(torch.ones(3, 2, dtype=torch.float64), t)
    torch.testing.assert_close(moved.heads["log_sigma"], field.log_sigma(t**2) + (2 * t).log())


def test_it_says_what_is_missing_or_wrong() -> None:
    x = torch.ones(2, 3)
    with pytest.raises(UserError, match="train with the objective AdaFlow"):
        solve(lambda x, t: -x, x, solver=Euler(), controller=VarianceAdaptive(0.1))
    with pytest.raises(UserError, match=r"'log_sigm'.*did you mean 'log_sigma'"):
        solve(Gaussian(1.0), x, solver=Euler(), controller=VarianceAdaptive(0.1, head="log_sigm"))
    wide = lambda x, t: Evaluation(-x, {"log_sigma": x})  # noqa: E731
    with pytest.raises(UserError, match=r"one number a sample, not \(2, 3\)"):
        solve(wide, x, solver=Euler(), controller=VarianceAdaptive(0.1))
    for eta in (-0.1, math.nan):
        with pytest.raises(UserError, match="eta must be 0 or more"):
            VarianceAdaptive(eta)
    with pytest.raises(UserError, match="at least 1, not 0"):
        VarianceAdaptive(0.1, 0)
    assert Sampler(controller=VarianceAdaptive(0.1, 5)).stepping() is not None
