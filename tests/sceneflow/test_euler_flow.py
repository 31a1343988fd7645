"""EulerFlow: the exact checks of its card, the core's solvers in physical time, and a fit that finds the motion."""

from __future__ import annotations

import math

import pytest
import torch

from domains.sceneflow.chamfer import nearest, truncated_chamfer
from domains.sceneflow.euler_flow import EulerFlowTask
from domains.sceneflow.field import SceneField, SceneNetwork
from domains.sceneflow.turning import TurningCloud
from flowkit.errors import UserError
from flowkit.solvers.controllers import FixedSteps
from flowkit.solvers.euler import Euler
from flowkit.solvers.rk4 import RK4
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.solve import solve


class Constant(SceneNetwork):
    """The same displacement everywhere, in each direction its own sign."""

    def __init__(self, step):
        super().__init__(width=4, depth=1)
        self.step = torch.nn.Parameter(torch.tensor(step))

    def forward(self, p, tau, direction):
        return (direction * self.step).expand_as(p)


def cloud(n, seed, dtype=torch.float64):
    return 3.0 * torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_a_cloud_that_moves_as_the_field_says_costs_nothing_and_pulls_at_nothing():
    step = torch.tensor([0.3, -0.1, 0.2], dtype=torch.float64, requires_grad=True)
    a = cloud(60, 0)
    cost = truncated_chamfer(a + step, a + step.detach())
    (gradient,) = torch.autograd.grad(cost, step)
    assert cost.item() == 0.0
    assert gradient.abs().max() == 0.0


def test_the_gradient_is_that_of_brute_force_and_truncation_averages_zeros_in():
    a, b = cloud(40, 1).requires_grad_(), cloud(30, 2)
    cost = truncated_chamfer(a, b, cut=2.0)
    squares = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
    one, two = squares.min(1).values, squares.min(0).values
    lost = (one >= 2.0).sum()
    assert 0 < lost < len(one)
    brute = torch.where(one < 2.0, one, 0.0).mean() + torch.where(two < 2.0, two, 0.0).mean()
    assert torch.allclose(cost, brute)
    mine, theirs = (torch.autograd.grad(value, a, retain_graph=True)[0] for value in (cost, brute))
    assert (mine - theirs).norm() <= 1e-6 * theirs.norm()
    assert torch.equal(nearest(a.detach(), b), squares.argmin(1))


def test_a_turning_field_in_frames_converges_with_the_order_of_the_solver():
    rate = math.radians(20.0)

    def turning(x, t):
        return rate * torch.stack([-x[:, 1], x[:, 0], torch.zeros_like(x[:, 2])], 1)

    p, angle = cloud(20, 3), 6 * rate
    c, s = math.cos(angle), math.sin(angle)
    exact = torch.stack([c * p[:, 0] - s * p[:, 1], s * p[:, 0] + c * p[:, 1], p[:, 2]], 1)
    for solver, order in ((Euler(), 1), (RK4(), 4)):
        errors = [
            (solve(turning, p, solver=solver, controller=FixedSteps(n), span=(2.0, 8.0)).x - exact).norm().item()
            for n in (24, 48)
        ]
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)
    there = solve(turning, p, solver=RK4(), controller=FixedSteps(48), span=(2.0, 8.0)).x
    back = solve(turning, there, solver=RK4(), controller=FixedSteps(48), span=(8.0, 2.0)).x
    assert (back - p).abs().max() < 1e-5


def test_a_step_of_the_field_adds_its_displacement_in_both_directions_of_time():
    network = SceneNetwork(width=16, depth=2).double()
    p = cloud(5, 4)
    for direction in (1, -1):
        moved = solve(
            SceneField(network, 9, direction), p, solver=Euler(), controller=FixedSteps(1),
            span=(4.0, 4.0 + direction),
        ).x  # fmt: skip
        expected = p + network(p, torch.zeros(5, dtype=torch.float64), float(direction))
        assert torch.allclose(moved, expected, atol=1e-6)


def test_the_loss_of_one_frame_is_that_of_pairs_and_far_rollouts_see_their_own_time():
    task = EulerFlowTask(Constant([0.3, 0.0, 0.0]), length=2, reach=1, cycle=0.0)
    frames = torch.stack([cloud(30, 5, torch.float32), cloud(30, 6, torch.float32)])
    step = task.network.step
    pairs = truncated_chamfer(frames[0] + step, frames[1]) + truncated_chamfer(frames[1] - step, frames[0])
    terms = task.window(frames, 0)
    assert torch.allclose(terms["near"], pairs)
    assert terms["far"] == terms["cycle"] == terms["speed"] == 0.0

    network = SceneNetwork(width=16, depth=2)
    free, frozen = (EulerFlowTask(network, length=9, frozen_time=flag) for flag in (False, True))
    a, b = (task.carry(frames[0], 1, 3).xs for task in (free, frozen))
    assert torch.allclose(a[1], b[1])
    assert not torch.allclose(a[3], b[3], atol=1e-6)


def test_the_hinge_meets_what_is_too_fast_and_the_cycle_what_does_not_come_back():
    frames = cloud(20, 7, torch.float32).expand(2, -1, -1)
    slow = EulerFlowTask(Constant([0.5, 0.0, 0.0]), length=2, reach=1, fastest=1.0)
    fast = EulerFlowTask(Constant([3.0, 0.0, 0.0]), length=2, reach=1, fastest=1.0)
    assert slow.window(frames, 0)["speed"] == 0.0
    assert fast.window(frames, 0)["speed"].item() == pytest.approx(2 * (2.0 + 0.5 * 4.0), rel=1e-5)
    assert slow.window(frames, 0)["cycle"].item() == pytest.approx(0.01 * 0.5, rel=1e-4)  # sigmoid(0)
    (gradient,) = torch.autograd.grad(fast.window(frames, 0)["cycle"], fast.network.step)
    assert torch.isfinite(gradient).all()


def test_true_flow_moves_points_as_the_body_turns():
    data = TurningCloud(length=6, points=50, window=3, turn=10.0, drift=0.1)
    raw = data.split("train").batch([0, 2])
    middle = 0.1 * (raw["first"].float() + 1)
    body = raw["frames"][:, 0] - torch.stack([middle - 0.1, 0 * middle, 0 * middle], 1)[:, None]
    moved = raw["frames"][:, 0] + raw["flow"][:, 0] - torch.stack([middle, 0 * middle, 0 * middle], 1)[:, None]
    assert torch.allclose(moved.norm(dim=-1), body.norm(dim=-1), atol=1e-5)
    turned = torch.atan2(moved[..., 1], moved[..., 0]) - torch.atan2(body[..., 1], body[..., 0])
    assert torch.allclose(torch.remainder(turned, 2 * math.pi), torch.tensor(math.radians(10.0)), atol=1e-4)


def test_a_short_fit_finds_the_motion():
    torch.manual_seed(0)
    data = TurningCloud(length=5, points=80, window=5)
    task = EulerFlowTask(SceneNetwork(width=32, depth=3), length=5)
    task.adapt(data)
    samples = data.split("train")
    before = task.evaluate(samples, sampler=Sampler())["normalised"]
    optimiser = torch.optim.Adam(task.parameters(), 4e-3)
    for _ in range(40):
        optimiser.zero_grad()
        task(samples.batch([0])).total.backward()
        optimiser.step()
    after = task.evaluate(samples, sampler=Sampler())["normalised"]
    assert after < 0.5 < before


def test_data_and_task_of_two_lengths_are_refused():
    with pytest.raises(UserError, match="length is 5, the data has 6"):
        EulerFlowTask(SceneNetwork(width=4, depth=1), length=5).adapt(TurningCloud(length=6))
    with pytest.raises(UserError, match="must fit in a length"):
        TurningCloud(length=3, window=5).prepare()
