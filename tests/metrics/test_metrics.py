"""Straightness, intersection, curvature, costs and distances against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from flowkit.metrics import (
    count_summary,
    curvature,
    degree_of_intersection,
    direction_straightness,
    energy_distance,
    straightness,
    straightness_by_energy,
    straightness_of_pieces,
    transport_cost,
    truncation_error,
    wasserstein2,
)
from flowkit.paths import LinearPath, TrigonometricPath
from flowkit.solvers.controllers import FixedSteps
from flowkit.solvers.dormand_prince import DormandPrince
from flowkit.solvers.euler import Euler
from flowkit.solvers.rk4 import RK4
from flowkit.solvers.save import STEPS
from flowkit.solvers.solve import solve
from flowkit.testing import GaussianMixture, JointGaussian
from flowkit.times.grids import SigmoidGrid


def gaussian(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("grid", [None, SigmoidGrid()])
@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0), (0.0, 0.7)])
def test_the_two_forms_of_straightness_agree(grid: SigmoidGrid | None, span: tuple[float, float]) -> None:
    field = GaussianMixture.ring().field()
    out = solve(field, gaussian(200), solver=Euler(), controller=FixedSteps(17, grid), span=span, save=STEPS)
    assert out.xs is not None
    assert out.ts is not None
    direct, energy = straightness(out.xs, out.ts), straightness_by_energy(out.xs, out.ts)
    torch.testing.assert_close(direct.per_sample, energy.per_sample, rtol=1e-9, atol=1e-9)
    assert direct.total > 0.01
    length = abs(span[1] - span[0])
    cost = float((out.xs[-1] - out.xs[0]).square().sum(1).mean()) / length**2
    assert direct.relative == pytest.approx(direct.total / cost)


def test_straight_lines_are_straight_and_padding_does_not_count() -> None:
    ts = torch.linspace(0, 1, 6, dtype=torch.float64)
    x0, x1 = gaussian(4), gaussian(4, 1)
    xs = x0 + ts[:, None, None] * (x1 - x0)
    assert straightness(xs, ts).total < 1e-25
    xs[:, :, 1] = math.nan
    padding = torch.tensor([True, False]).expand(4, 2)
    assert straightness(xs, ts, padding=padding).total < 1e-25
    with pytest.raises((ValueError, TypeError)):
        straightness(xs, ts[:-1])


def test_the_straightness_of_directions_is_blind_to_speed() -> None:
    ts = torch.linspace(0, 1, 101, dtype=torch.float64)
    x0, x1 = gaussian(4), gaussian(4, 1)
    line = x0 + ts.square()[:, None, None] * (x1 - x0)
    assert straightness(line, ts).total > 0.01
    assert float(direction_straightness(line, ts).max()) < 1e-12
    half = math.pi * ts  # a half circle: its direction turns evenly from -90 to 90 degrees against D
    arc = torch.stack([-half.cos(), half.sin()], 1)[:, None]
    assert float(direction_straightness(arc, ts)) == pytest.approx(2.0 - 4.0 / math.pi, abs=1e-3)
    assert direction_straightness(torch.zeros_like(arc), ts).tolist() == [0.0]


def test_pieces_of_a_kinked_line_are_straight() -> None:
    ts = torch.linspace(0, 1, 11, dtype=torch.float64)
    kinked = (ts + (ts - 0.5).clamp_min(0) * 3)[:, None, None].expand(11, 3, 2)
    assert straightness(kinked, ts).total > 1.0
    assert straightness_of_pieces(kinked, ts, [0.0, 0.5, 1.0]).total < 1e-20
    whole = straightness_of_pieces(kinked, ts, [0.0, 1.0])
    assert whole.total == pytest.approx(straightness(kinked, ts).total)
    with pytest.raises(ValueError, match=r"no state was saved at the boundary t = 0\.25"):
        straightness_of_pieces(kinked, ts, [0.0, 0.25, 1.0])


def test_energy_identity_of_the_linear_path() -> None:
    # E|X1 - X0|^2 - E|Z1 - Z0|^2 = S(Z) + V(X0, X1), cards 0.4 and 15: within 1 % at n = 2e4, N = 100.
    mixture, n = GaussianMixture.ring(), 20_000
    g = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(n, 2, generator=g, dtype=torch.float64), mixture.sample(n, g)
    out = solve(mixture.field(), x0, solver=Euler(), controller=FixedSteps(100), save=STEPS)
    assert out.xs is not None
    assert out.ts is not None
    z = straightness(out.xs, out.ts)
    crossing = float(degree_of_intersection(mixture.field(), mixture.path, x0, x1, times=4, generator=g).mean())
    saved = transport_cost(x0, x1) - transport_cost(x0, out.x)
    assert saved == pytest.approx(z.total + crossing, rel=0.01)
    # The oracle knows V exactly too: the mean of E[|u - v*|^2 | x_t] along the path.
    t = torch.rand(n, generator=g, dtype=torch.float64)
    exact = float(mixture.velocity_variance(mixture.sample_at(t, g), t).mean())
    assert crossing == pytest.approx(exact, rel=0.03)
    for power in (1.0, 2.0, 4.0):  # a rectification lowers every convex cost
        assert transport_cost(x0, out.x, power=power) < transport_cost(x0, x1, power=power)


def test_a_rectified_coupling_keeps_its_laws_at_all_times_and_what_it_saves_bounds_the_rounds() -> None:
    root = torch.randn(4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    joint, n, eye = root @ root.T, 20_000, torch.eye(2, dtype=torch.float64)
    law = JointGaussian(joint[:2, :2], joint[2:, 2:], joint[:2, 2:])  # noise and data that depend on each other
    g = torch.Generator().manual_seed(0)
    x0, x1 = law.sample(n, g)
    first, spent = transport_cost(x0, x1), 0.0
    for _ in range(2):
        columns = solve(law, eye, solver=RK4(), controller=FixedSteps(100), save=STEPS)
        assert columns.xs is not None
        assert columns.ts is not None
        maps = columns.xs.mT  # Z_t = A_t Z_0
        torch.testing.assert_close(maps @ law.source @ maps.mT, law.covariance(columns.ts), rtol=1e-4, atol=1e-4)
        z = straightness(x0 @ maps.mT, columns.ts)
        crossing = float(degree_of_intersection(law, law.path, x0, x1, times=4, generator=g).mean())
        z1 = x0 @ maps[-1].T
        assert transport_cost(x0, x1) - transport_cost(x0, z1) == pytest.approx(z.total + crossing, rel=0.02, abs=1e-3)
        spent += z.total + crossing
        law = JointGaussian(law.source, maps[-1] @ law.source @ maps[-1].T, law.source @ maps[-1].T)
        x1 = z1
    assert 0.0 < spent <= first


def test_the_law_along_the_flow_is_that_of_the_path() -> None:
    mixture, n = GaussianMixture.ring(), 2000
    out = solve(mixture.field(), gaussian(n), solver=RK4(), controller=FixedSteps(20), save=STEPS)
    assert out.xs is not None
    for i in (6, 13):
        t = torch.full((n,), i / 20, dtype=torch.float64)
        real = [mixture.sample_at(t, torch.Generator().manual_seed(seed)) for seed in (1, 2, 3)]
        floor = max(energy_distance(real[0], real[1]), energy_distance(real[1], real[2]))
        assert energy_distance(out.xs[i], real[0]) < 3.0 * floor
        assert energy_distance(out.xs[i + 2], real[0]) > 3.0 * floor


def test_one_rectification_of_the_line_is_the_monotone_map() -> None:
    mixture = GaussianMixture([0.3, 0.7], [[-2.0], [1.5]], [0.4, 0.8])
    x0 = torch.randn(400, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z1 = solve(mixture.field(), x0, solver=RK4(), controller=FixedSteps(60)).x
    assert torch.equal(x0[:, 0].argsort(), z1[:, 0].argsort())  # rank correlation 1
    # And it is the map of the quantiles: F1(z1) = F0(x0).
    cdf = 0.0
    for w, mean, scale in zip(mixture.weights, mixture.means, mixture.scales, strict=True):
        cdf = cdf + w * torch.special.ndtr((z1 - mean) / scale)
    torch.testing.assert_close(cdf, torch.special.ndtr(x0), atol=2e-4, rtol=0)


def test_curvature_is_zero_on_first_order_trajectories_of_any_schedule_only() -> None:
    for path in (LinearPath(), TrigonometricPath()):
        point = GaussianMixture([1.0], [[2.0, 1.0]], 0.0, path)  # one target: every trajectory is of first order
        x0 = gaussian(50)
        ts = torch.linspace(0, 0.95, 20, dtype=torch.float64)
        xs = torch.stack([path.at(x0, point.means.expand(50, 2), t.expand(50)).xt for t in ts])
        assert float(curvature(point.field(), path, xs, ts).max()) < 1e-18
        ring = GaussianMixture.ring(path=path)
        out = solve(ring.field(), x0, solver=RK4(), controller=FixedSteps(40), save=STEPS)
        assert out.xs is not None
        assert out.ts is not None
        assert float(curvature(ring.field(), path, out.xs, out.ts).mean()) > 0.01


def test_truncation_error_halves_with_the_step() -> None:
    field, x0 = GaussianMixture.ring().field(), gaussian(300)
    reference = solve(field, x0, solver=DormandPrince(), controller=FixedSteps(200)).x
    errors = [
        truncation_error(solve(field, x0, solver=Euler(), controller=FixedSteps(n)).x, reference) for n in (100, 200)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1.0, abs=0.1)


def test_count_summary() -> None:
    out = solve(GaussianMixture.ring().field(), gaussian(20), solver=RK4(), controller=FixedSteps(5))
    counts = count_summary(out)
    assert counts["nfe"] == counts["nfe_min"] == counts["nfe_max"] == counts["evaluations"] == 20.0
    assert counts["accepted"] == 5.0
    assert counts["rejected"] == counts["failed"] == 0.0


def test_energy_distance() -> None:
    a = torch.tensor([[0.0], [2.0]])
    b = torch.tensor([[1.0], [3.0]])
    # 2 * (1 + 3 + 1 + 1) / 4 - 2 * 2 / 4 - 2 * 2 / 4
    assert energy_distance(a, b) == pytest.approx(1.0)
    assert energy_distance(b, a, chunk=1) == pytest.approx(1.0)
    assert energy_distance(a, a) == 0.0
    near, far = gaussian(500, 1), gaussian(500, 2) + 1.0
    assert energy_distance(gaussian(500), near) < 0.02 < energy_distance(gaussian(500), far)


def test_wasserstein2() -> None:
    a = gaussian(100)
    assert wasserstein2(a, a[torch.randperm(100, generator=torch.Generator().manual_seed(0))]) < 1e-12
    assert wasserstein2(a, a + torch.tensor([3.0, 4.0])) == pytest.approx(5.0)
    with pytest.raises((ValueError, TypeError)):
        wasserstein2(a, a[:50])
