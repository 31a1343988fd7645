"""Parabolas: ends, derivative, and the straight line as their limit."""

from __future__ import annotations

import pytest
import torch

from flowkit.errors import UserError
from flowkit.paths import ConstantAccelerationPath, LinearPath


def draws(n: int = 32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0, x1, v0 = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    return x0, x1, v0, torch.rand(n, generator=generator, dtype=torch.float64)


def test_it_goes_through_both_ends_exactly_whatever_the_initial_velocity() -> None:
    x0, x1, v0, t = draws()
    path = ConstantAccelerationPath()
    for aux in (None, v0):
        assert torch.equal(path.at(x0, x1, torch.zeros_like(t), aux).xt, x0)
        assert torch.equal(path.at(x0, x1, torch.ones_like(t), aux).xt, x1)


def test_its_velocity_is_its_derivative_and_begins_as_told() -> None:
    x0, x1, v0, t = draws()
    path = ConstantAccelerationPath()
    t.requires_grad_()
    point = path.at(x0, x1, t, v0).xt
    parts = [torch.autograd.grad(point[:, k].sum(), t, retain_graph=True)[0] for k in range(3)]
    derivative = torch.stack(parts, 1)
    torch.testing.assert_close(path.at(x0, x1, t, v0).vt, derivative)
    torch.testing.assert_close(path.at(x0, x1, torch.zeros_like(t), v0).vt, v0)
    a = path.acceleration(x0, x1, v0)
    torch.testing.assert_close(point, x0 + v0 * t[:, None] + 0.5 * a * t[:, None] ** 2)


def test_at_speed_one_it_is_the_straight_line() -> None:
    x0, x1, _, t = draws()
    point, line = ConstantAccelerationPath(1.0).at(x0, x1, t), LinearPath().at(x0, x1, t)
    torch.testing.assert_close(point.xt, line.xt)
    torch.testing.assert_close(point.vt, line.vt)


def test_a_speed_that_is_not_positive_is_refused() -> None:
    with pytest.raises(UserError, match="speed must be positive"):
        ConstantAccelerationPath(0.0)
