"""Gradients through a solve, against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flowkit.solvers.bogacki_shampine import BogackiShampine
from flowkit.solvers.controllers import FixedSteps, Tolerance
from flowkit.solvers.dormand_prince import DormandPrince
from flowkit.solvers.euler import Euler
from flowkit.solvers.heun import Heun
from flowkit.solvers.midpoint import Midpoint
from flowkit.solvers.rk4 import RK4
from flowkit.solvers.rk4_three_eighths import RK4ThreeEighths
from flowkit.solvers.save import DENSE
from flowkit.solvers.solve import solve
from flowkit.solvers.tsitouras import Tsitouras

X = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
W = torch.randn(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def end(x: Tensor, weight: Tensor, method, controller, save=None) -> Tensor:
    def field(x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x @ weight) * (1 + t[:, None])

    if save is None:
        return solve(field, x, solver=method, controller=controller).x
    solution = solve(field, x, solver=method, controller=controller, save=save)
    if save is DENSE:
        assert solution.dense is not None
        return solution.dense(0.37)
    assert solution.xs is not None
    return solution.xs


@pytest.mark.parametrize(
    "method",
    [Euler(), Midpoint(), Heun(), RK4(), RK4ThreeEighths(), BogackiShampine(), DormandPrince(), Tsitouras()],
    ids=repr,
)
def test_fixed_steps_pass_gradcheck(method) -> None:
    x, weight = X.clone().requires_grad_(), W.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: end(x, w, method, FixedSteps(3)), (x, weight))
    assert torch.autograd.gradcheck(lambda x, w: end(x, w, method, FixedSteps(3), [0.2, 0.9]), (x, weight))


@pytest.mark.parametrize(
    ("method", "tolerance"),
    [
        (BogackiShampine(), Tolerance(1e-7, 1e-7)),
        (DormandPrince(), Tolerance(1e-10, 1e-10)),
        (Tsitouras(), Tolerance(1e-10, 1e-10)),
    ],
    ids=repr,
)
def test_adaptive_gradient_agrees_with_finite_differences(method, tolerance) -> None:
    """Step sizes carry no gradient, so the two agree to the tolerance, not to rounding."""
    x, weight = X.clone().requires_grad_(), W.clone().requires_grad_()
    for save in (None, [0.31, 1.0]) if isinstance(method, BogackiShampine) else (None, DENSE):
        grads = torch.autograd.grad(end(x, weight, method, tolerance, save).square().sum(), (x, weight))
        for argument, grad in ((0, grads[0]), (1, grads[1])):
            direction = torch.randn(grad.shape, dtype=grad.dtype, generator=torch.Generator().manual_seed(2))
            values = []
            for sign in (1, -1):
                inputs = [X, W]
                inputs[argument] = inputs[argument] + sign * 1e-3 * direction
                values.append(end(*inputs, method, tolerance, save).square().sum())
            slope = (values[0] - values[1]) / 2e-3
            assert (grad * direction).sum().item() == pytest.approx(slope.item(), rel=1e-4, abs=1e4 * tolerance.rtol)


def test_solves_under_inference_mode_leave_nothing_behind() -> None:
    method = DormandPrince()
    with torch.inference_mode():
        end(X.float(), W.float(), method, Tolerance())
        end(X.float(), W.float(), method, FixedSteps(2))
    x = X.float().requires_grad_()
    for controller in (Tolerance(), FixedSteps(2)):
        end(x, W.float(), method, controller).sum().backward()
    assert x.grad is not None
