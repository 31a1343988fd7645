"""Measured orders: every fixed-step method on the exact flow of a mixture, both ways in time; tableaus and dense
output.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from flowkit.paths.linear import LinearPath
from flowkit.paths.trigonometric import TrigonometricPath
from flowkit.solvers.bogacki_shampine import BogackiShampine
from flowkit.solvers.controllers import FixedSteps
from flowkit.solvers.dormand_prince import DormandPrince
from flowkit.solvers.euler import Euler
from flowkit.solvers.heun import Heun
from flowkit.solvers.midpoint import Midpoint
from flowkit.solvers.rk4 import RK4
from flowkit.solvers.rk4_three_eighths import RK4ThreeEighths
from flowkit.solvers.runge_kutta import RungeKutta
from flowkit.solvers.save import DENSE
from flowkit.solvers.solve import solve
from flowkit.solvers.tsitouras import Tsitouras
from flowkit.testing.mixture import GaussianMixture

METHODS = [Euler, Midpoint, Heun, RK4, RK4ThreeEighths, BogackiShampine, DormandPrince, Tsitouras]
PAIRS = [BogackiShampine, DormandPrince, Tsitouras]
SPANS = [(0.0, 1.0), (1.0, 0.0)]
#: Steps for which errors are far from both rounding and the first, irregular steps.
STEPS = {1: (320, 640), 2: (160, 320), 3: (80, 160), 4: (48, 96), 5: (96, 192)}
#: Times inside steps.
INSIDE = [0.137, 0.391, 0.523, 0.777, 0.912]


class Oracle:
    """Exact, nonlinear, time-dependent; its ends from 600 steps of order 5, whose error is rounding."""

    def __init__(self, mixture: GaussianMixture) -> None:
        self.field = mixture.field()
        self.x = torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        self.ends = {
            s: solve(self.field, self.x, solver=DormandPrince(), controller=FixedSteps(600), span=s).x for s in SPANS
        }


@pytest.fixture(scope="module")
def curved() -> Oracle:
    means = [[1.0, 0.5], [-1.0, 0.7], [0.2, -1.2]]
    return Oracle(GaussianMixture([0.5, 0.3, 0.2], means, [0.6, 0.7, 0.8], TrigonometricPath()))


@pytest.fixture(scope="module")
def fine(curved: Oracle) -> dict[tuple, Tensor]:
    """States of the exact flow at :data:`INSIDE`, by span."""
    controller, found = FixedSteps(400), {}
    for span in SPANS:
        solution = solve(curved.field, curved.x, solver=Tsitouras(), controller=controller, span=span, save=INSIDE)
        assert solution.xs is not None
        found[span] = solution.xs
    return found


@pytest.fixture(scope="module")
def wide() -> Oracle:
    """Where the fifth order shows before rounding does: on ``curved`` the next term of the error leads until then."""
    return Oracle(GaussianMixture([0.6, 0.4], [[0.3, 0.5], [-0.3, 0.2]], [4.0, 5.0], LinearPath()))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("span", SPANS)
def test_measured_order(method: type[RungeKutta], span: tuple[float, float], curved: Oracle, wide: Oracle) -> None:
    oracle = wide if method.order == 5 else curved
    errors = []
    for steps in STEPS[method.order]:
        solution = solve(oracle.field, oracle.x, solver=method(), controller=FixedSteps(steps), span=span)
        errors.append((solution.x - oracle.ends[span]).square().mean().sqrt().item())
        assert (solution.evaluations == steps * method.evaluations).all()
    assert math.log2(errors[0] / errors[1]) == pytest.approx(method.order, abs=0.1)


@pytest.mark.parametrize("method", PAIRS)
def test_error_estimate_shrinks_with_its_order(method: type[RungeKutta], curved: Oracle) -> None:
    """The local error of the embedded solution is of order error_order + 1."""
    field, x = curved.field, curved.x
    t0 = torch.full((len(x),), 0.3, dtype=torch.float64)
    sizes = []
    for h in (0.04, 0.02):
        step = method().step(field, t0, t0 + h, x, field(x, t0), None, None)
        assert step.error is not None
        sizes.append(step.error.square().mean().sqrt().item())
    assert method.error_order is not None
    assert math.log2(sizes[0] / sizes[1]) == pytest.approx(method.error_order + 1, abs=0.15)


def _trees(order: int) -> list[tuple]:
    """Rooted trees with ``order`` vertices, each a sorted tuple of its subtrees."""
    if order == 1:
        return [()]
    found = set()
    for parts in itertools.product(range(1, order), repeat=1):
        first = parts[0]
        for head in _trees(first):
            for rest in _trees(order - first):
                found.add(tuple(sorted((head, *rest))))
    return sorted(found)


def _size(tree: tuple) -> int:
    return 1 + sum(_size(child) for child in tree)


def _density(tree: tuple) -> int:
    return _size(tree) * math.prod(_density(child) for child in tree)


def _stage_weights(tree: tuple, a: Tensor) -> Tensor:
    """Product over the children of A times their weights: the elementary weight is b . this."""
    out = torch.ones(len(a), dtype=torch.float64)
    for child in tree:
        out = out * (a @ _stage_weights(child, a))
    return out


def _matrix(method: type[RungeKutta]) -> Tensor:
    stages = len(method.nodes)
    return torch.tensor([[*row, *[0.0] * (stages - len(row))] for row in ((), *method.rows)], dtype=torch.float64)


@pytest.mark.parametrize("method", METHODS)
def test_tableau_meets_every_order_condition(method: type[RungeKutta]) -> None:
    """sum_i b_i Phi_i(tree) = 1 / density(tree) for all trees up to the order (Butcher); rows sum to nodes."""
    a = _matrix(method)
    assert torch.allclose(a.sum(1), torch.tensor(method.nodes, dtype=torch.float64), atol=1e-14)
    for weights, order in ((method.weights, method.order), (method.embedded, method.error_order)):
        if weights is None:
            continue
        b = torch.tensor(weights, dtype=torch.float64)
        for tree in (tree for n in range(1, order + 1) for tree in _trees(n)):
            assert (b @ _stage_weights(tree, a)).item() == pytest.approx(1 / _density(tree), abs=5e-14), tree
    # And not of a higher order: the conditions can fail.
    b = torch.tensor(method.weights, dtype=torch.float64)
    assert any(abs((b @ _stage_weights(t, a)).item() - 1 / _density(t)) > 1e-6 for t in _trees(method.order + 1))


def test_there_are_as_many_trees_as_butcher_says() -> None:
    assert [len(_trees(n)) for n in range(1, 7)] == [1, 1, 2, 4, 9, 20]


@pytest.mark.parametrize(
    ("method", "order"),
    [(Euler, 1), (Heun, 2), (RK4, 3), (BogackiShampine, 3), (DormandPrince, 4), (Tsitouras, 4)],
)
@pytest.mark.parametrize("span", SPANS)
def test_dense_output_order(
    method: type[RungeKutta], order: int, span: tuple[float, float], curved: Oracle, fine: dict[tuple, Tensor]
) -> None:
    """Inside a step the error of the dense output shrinks with (at least) its order."""
    errors = []
    for steps in (20, 40):
        solution = solve(curved.field, curved.x, solver=method(), controller=FixedSteps(steps), span=span, save=DENSE)
        assert solution.dense is not None
        states = torch.stack([solution.dense(t) for t in INSIDE])
        errors.append((states - fine[span]).square().mean().sqrt().item())
    # The place within a step differs between both grids, so the slope is rough.
    assert math.log2(errors[0] / errors[1]) > order - 0.35
