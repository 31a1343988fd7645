"""DPM-Solver of order 2: its order, its evaluations, and exactness where the data prediction stands still."""

from __future__ import annotations

import math

import pytest
import torch

from flowkit.errors import UserError
from flowkit.paths.affine import AffinePath
from flowkit.paths.linear import LinearPath
from flowkit.paths.trigonometric import TrigonometricPath
from flowkit.paths.vp_beta import VPBetaPath
from flowkit.solvers.controllers import FixedSteps
from flowkit.solvers.dormand_prince import DormandPrince
from flowkit.solvers.dpm_solver import DPMSolver2
from flowkit.solvers.solve import solve
from flowkit.testing import GaussianMixture

LAW = GaussianMixture([0.5, 0.3, 0.2], [[1.0, 0.5], [-1.0, 0.7], [0.2, -1.2]], [0.6, 0.7, 0.8])


def measured_order(path: AffinePath, span: tuple[float, float], *, extrapolate: bool = False) -> float:
    field = LAW.on(path).field()
    x = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    end = solve(field, x, solver=DormandPrince(), controller=FixedSteps(40), span=span).x
    errors = []
    for steps in (16, 32):
        found = solve(field, x, solver=DPMSolver2(extrapolate), controller=FixedSteps(steps), span=span)
        errors.append(float((found.x - end).square().mean().sqrt()))
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize("path", [LinearPath(), TrigonometricPath()])
@pytest.mark.parametrize("span", [(0.1, 0.8), (0.8, 0.1)])
def test_measured_order(path: AffinePath, span: tuple[float, float]) -> None:
    assert measured_order(path, span) == pytest.approx(2.0, abs=0.15)


def test_the_first_order_step_at_the_data_end_costs_no_order() -> None:
    """Steps there are long in the log-SNR however many there are, so the order is only nearly reached."""
    assert measured_order(LinearPath(), (0.0, 1.0)) > 1.7


def test_extrapolating_at_the_data_end_costs_one_call_and_is_nearer() -> None:
    x = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    end = solve(LAW.field(), x, solver=DormandPrince(), controller=FixedSteps(40)).x
    plain, more = (solve(LAW.field(), x, solver=DPMSolver2(e), controller=FixedSteps(5)) for e in (False, True))
    assert more.evaluations.tolist() == [10] * 64
    assert float((more.x - end).square().mean()) < 0.5 * float((plain.x - end).square().mean())
    assert measured_order(LinearPath(), (0.0, 1.0), extrapolate=True) > 1.7


def test_a_solve_from_noise_to_data_costs_one_less_than_two_a_step() -> None:
    x = torch.randn(4, 2, dtype=torch.float64)
    assert solve(LAW.field(), x, solver=DPMSolver2(), controller=FixedSteps(5)).evaluations.tolist() == [9] * 4


@pytest.mark.parametrize("path", [LinearPath(), TrigonometricPath(), VPBetaPath()])
def test_it_is_exact_where_the_data_prediction_stands_still(path: AffinePath) -> None:
    point = GaussianMixture([1.0], [[1.5, -0.5]], 0.0, path).field()
    x = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    one, many = (solve(point, x, solver=DPMSolver2(), controller=FixedSteps(n), span=(0.05, 0.9)).x for n in (1, 7))
    assert torch.allclose(one, many, atol=1e-10)


def test_a_field_without_an_affine_path_is_refused() -> None:
    with pytest.raises(UserError, match="affine path"):
        solve(lambda x, t: x, torch.zeros(2, 2), solver=DPMSolver2(), controller=FixedSteps(2))
