"""DDIM: Euler on the linear path, order 1 elsewhere, the formula of diffusion code with trailing steps, clipping."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.fields import ClassifierFree, Evaluation, Field, NetworkField, NoisePrediction
from flowkit.fields.reschedule import Rescheduled
from flowkit.nn.mlp import MLP
from flowkit.nn.network import NetworkSpec
from flowkit.paths import AffinePath, DiffusionPath, LinearPath, TrigonometricPath, VEPath, VPBetaPath
from flowkit.solvers.controllers import FixedSteps
from flowkit.solvers.ddim import DDIM
from flowkit.solvers.dormand_prince import DormandPrince
from flowkit.solvers.euler import Euler
from flowkit.solvers.save import STEPS
from flowkit.solvers.solve import solve
from flowkit.testing import GaussianMixture
from flowkit.times import SigmoidGrid, TimeGrid, UniformGrid

MIXTURE = GaussianMixture([0.5, 0.3, 0.2], [[1.0, 0.5], [-1.0, 0.7], [0.2, -1.2]], [0.5, 0.3, 0.4])


def states(n: int = 16, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(3), dtype=dtype)


@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0), (0.2, 0.7)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_on_the_linear_path_it_is_euler(span: tuple[float, float], dtype: torch.dtype, tolerance: float) -> None:
    field, x = MIXTURE.field(), states(dtype=dtype)

    def plain(x: Tensor, t: Tensor) -> Tensor:
        return field(x.double(), t.double()).v.to(x.dtype)

    class Typed(Field):
        path = LinearPath()

        def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Evaluation:
            return Evaluation(plain(x, t))

    ddim = solve(Typed(), x, solver=DDIM(), controller=FixedSteps(7), span=span)
    euler = solve(plain, x, solver=Euler(), controller=FixedSteps(7), span=span)
    torch.testing.assert_close(ddim.x, euler.x, rtol=tolerance, atol=tolerance)
    assert torch.equal(ddim.evaluations, euler.evaluations)


@pytest.mark.parametrize("path", [VPBetaPath(), TrigonometricPath(), DiffusionPath(), VEPath(0.05, 10.0)], ids=repr)
@pytest.mark.parametrize("span", [(0.02, 0.98), (0.98, 0.02)])
def test_order_one(path: TrigonometricPath, span: tuple[float, float]) -> None:
    field, x = MIXTURE.on(path).field(), states()
    if isinstance(path, VEPath) and span[0] < 0.5:
        x = path.start(x)
    exact = solve(field, x, solver=DormandPrince(), controller=FixedSteps(200), span=span).x
    errors = []
    for steps in (200, 400):
        solution = solve(field, x, solver=DDIM(), controller=FixedSteps(steps), span=span)
        errors.append((solution.x - exact).square().mean().sqrt().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1.0, abs=0.15)


def test_it_is_exact_where_the_data_are_one_point() -> None:
    """D stands still then, so one step from any time is exact; on curved paths Euler is not."""
    point = GaussianMixture([1.0], [[0.7, -0.4]], 0.0, TrigonometricPath())
    x = states()
    solution = solve(point.field(), x, solver=DDIM(), controller=FixedSteps(1))
    torch.testing.assert_close(solution.x, torch.tensor([[0.7, -0.4]]).double().expand(16, 2))
    part = solve(point.field(), x, solver=DDIM(), controller=FixedSteps(1), span=(0.0, 0.6)).x
    alpha, sigma, _, _ = TrigonometricPath().coefficients(torch.tensor([0.6], dtype=torch.float64))
    torch.testing.assert_close(part, alpha * torch.tensor([0.7, -0.4]).double() + sigma * x)
    euler = solve(point.field(), x, solver=Euler(), controller=FixedSteps(1)).x
    assert float((euler - solution.x).abs().max()) > 0.1


class FirstOrder(Field):
    """Pairs (x0, A x0 + b) on any path: each trajectory keeps its x0 and x1."""

    def __init__(self, path: AffinePath) -> None:
        self.path = self.affine = path
        self.a = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
        self.b = torch.tensor([3.0, -1.0], dtype=torch.float64)

    def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Evaluation:
        alpha, sigma, d_alpha, d_sigma = (c[:, None] for c in self.affine.coefficients(t))
        matrix = alpha[..., None] * self.a + sigma[..., None] * torch.eye(2, dtype=torch.float64)
        x0 = torch.linalg.solve(matrix, x - alpha * self.b)
        return Evaluation(d_alpha * (x0 @ self.a.T + self.b) + d_sigma * x0)


@pytest.mark.parametrize("path", [LinearPath(), TrigonometricPath()], ids=repr)
@pytest.mark.parametrize("grid", [UniformGrid(), SigmoidGrid(5.0)], ids=repr)
def test_steps_of_first_order_compose_on_any_grid_and_end_alike_on_any_path(path: AffinePath, grid: TimeGrid) -> None:
    field, x0 = FirstOrder(path), states()
    ends = [solve(field, x0, solver=DDIM(), controller=FixedSteps(n, grid)).x for n in (1, 2, 7)]
    for end in ends:  # the same map of the ends, whatever alpha and sigma
        torch.testing.assert_close(end, x0 @ field.a.T + field.b, rtol=1e-12, atol=1e-12)
    back = solve(field, ends[0], solver=DDIM(), controller=FixedSteps(3, grid), span=(1.0, 0.0)).x
    torch.testing.assert_close(back, x0, rtol=1e-12, atol=1e-12)


def levels() -> list[float]:
    """ab_k of squaredcos_cap_v2 with 100 levels."""
    f = lambda r: math.cos((r + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
    products, product = [], 1.0
    for i in range(100):
        product *= 1 - min(1 - f((i + 1) / 100) / f(i / 100), 0.999)
        products.append(product)
    return products


@pytest.mark.parametrize("steps", [1, 2, 10, 100])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_it_is_the_formula_of_diffusion_code_with_trailing_steps(
    steps: int, recompute: bool, clip: float | None
) -> None:
    torch.manual_seed(1)
    network = MLP(NetworkSpec(), dimension=2, width=16).double()
    ab, x = levels(), states()
    expected = x
    trailing = [100 - 1 - i * (100 // steps) for i in range(steps)]
    assert trailing[0] == 99  # the noisiest level, not the cleanest
    for i, k in enumerate(trailing):
        t = torch.full((16,), 1 - (k + 1) / 100, dtype=torch.float64)
        with torch.no_grad():
            e_hat = network((expected,), (t,), Cond())["v"]
        a_hat = (expected - math.sqrt(1 - ab[k]) * e_hat) / math.sqrt(ab[k])
        if clip is not None:
            a_hat = a_hat.clamp(-clip, clip)
            if recompute:
                e_hat = (expected - math.sqrt(ab[k]) * a_hat) / math.sqrt(1 - ab[k])
        previous = ab[trailing[i + 1]] if i + 1 < steps else 1.0
        expected = math.sqrt(previous) * a_hat + math.sqrt(1 - previous) * e_hat
    field = NetworkField(network, DiffusionPath(), NoisePrediction())
    with torch.no_grad():
        solution = solve(field, x, solver=DDIM(clip, recompute), controller=FixedSteps(steps))
    scale = float(expected.abs().max())
    assert float((solution.x - expected).abs().max()) < 1e-6 * scale
    if clip is not None:
        assert float(solution.x.abs().max()) <= clip + 1e-6


def test_float32_follows_float64() -> None:
    """Ten clipped steps from t = 0, where alpha is 4.9e-4."""
    torch.manual_seed(1)
    network = MLP(NetworkSpec(), dimension=2, width=16)
    with torch.no_grad():
        low = solve(
            NetworkField(network, DiffusionPath(), NoisePrediction()),
            states(64, torch.float32),
            solver=DDIM(1.0),
            controller=FixedSteps(10),
            save=STEPS,
        )
        high = solve(
            NetworkField(network.double(), DiffusionPath(), NoisePrediction()),
            states(64, torch.float32).double(),
            solver=DDIM(1.0),
            controller=FixedSteps(10),
            save=STEPS,
        )
    assert low.xs is not None
    assert high.xs is not None
    torch.testing.assert_close(low.xs.double(), high.xs, rtol=0, atol=2e-4)


def test_wrapped_fields_keep_their_path() -> None:
    torch.manual_seed(0)
    network = MLP(NetworkSpec(), labels={"label": 2}).double()
    field = NetworkField(network, DiffusionPath(), NoisePrediction())
    cond = Cond({"label": torch.arange(16) % 2}, nulls={"label": 2})
    guided = solve(ClassifierFree(2.0).apply(field), states(), solver=DDIM(1.0), controller=FixedSteps(5), cond=cond)
    plain = solve(field, states(), solver=DDIM(1.0), controller=FixedSteps(5), cond=cond)
    assert guided.ok
    assert (guided.network_calls == 2 * plain.network_calls).all()
    assert not torch.equal(guided.x, plain.x)
    # DDIM does not care on which path a field is written, at corresponding times.
    moved = Rescheduled(MIXTURE.on(TrigonometricPath()).field(), LinearPath())
    at = LinearPath().time_of(TrigonometricPath().half_log_snr(torch.tensor([0.5], dtype=torch.float64)))
    there = solve(moved, states(), solver=DDIM(), controller=FixedSteps(1), span=(0.0, float(at))).x
    here = solve(
        MIXTURE.on(TrigonometricPath()).field(), states(), solver=DDIM(), controller=FixedSteps(1), span=(0.0, 0.5)
    ).x
    ratio = there / here
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio), rtol=1e-9, atol=0)


def test_half_precision_states_stay_so() -> None:
    class Half(Field):
        path = LinearPath()

        def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Evaluation:
            return Evaluation(-x)

    solution = solve(Half(), torch.ones(3, 2, dtype=torch.bfloat16), solver=DDIM(), controller=FixedSteps(3))
    assert solution.x.dtype == torch.bfloat16


def test_it_says_what_it_needs() -> None:
    with pytest.raises(UserError, match="this field has none"):
        solve(lambda x, t: -x, states(), solver=DDIM(), controller=FixedSteps(2))
    for clip in (0.0, -1.0, math.inf):
        with pytest.raises(UserError, match="clip must be positive"):
            DDIM(clip)
