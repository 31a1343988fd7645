"""Consistent flow distillation: the identities of its card, and its toy against score distillation."""

from __future__ import annotations

import pytest
import torch

from domains.distill3d.distillation import distillation_gradient, pull
from domains.distill3d.instances import Instances
from domains.distill3d.task import PointDistillation
from domains.distill3d.teachers import MixtureTeacher
from flowkit.errors import UserError
from flowkit.paths.linear import LinearPath
from flowkit.paths.trigonometric import TrigonometricPath
from flowkit.paths.vp_beta import VPBetaPath
from flowkit.random import Rows
from flowkit.solvers.controllers import FixedSteps
from flowkit.solvers.ddim import DDIM
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.solve import solve
from flowkit.train.optimisers import SGD


@pytest.mark.parametrize("path", [LinearPath(), TrigonometricPath(), VPBetaPath()], ids=lambda p: type(p).__name__)
def test_the_gradient_is_lambda_times_the_error_of_the_noise(path):
    teacher = MixtureTeacher(path=path)
    generator = torch.Generator().manual_seed(0)
    x, e = (torch.randn(50, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    t = torch.rand(50, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    alpha, sigma, _, _ = path.coefficients(t)
    seen = alpha[:, None] * x + sigma[:, None] * e
    noise = path.noise(seen, teacher.field()(seen, t).v, t)
    expected = (sigma / alpha)[:, None] * (noise - e)
    assert torch.allclose(distillation_gradient(teacher.field(), path, x, e, t), expected, rtol=0.0, atol=1e-12)


def test_the_loss_has_the_gradient_that_was_given():
    x = torch.randn(5, 3, requires_grad=True)
    g = torch.randn(5, 3)
    (found,) = torch.autograd.grad(pull(x, g).sum(), x)
    assert torch.allclose(found, g)


def test_descent_at_the_rate_of_the_noise_is_the_teachers_own_sampling():
    # x_c <- x_c - (1 - lambda_next / lambda) g is Euler in lambda, and x_c + lambda e that of DDIM on x / alpha.
    teacher, path = MixtureTeacher(), LinearPath()
    e = torch.randn(200, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    times = torch.linspace(0.02, 0.98, 40, dtype=torch.float64)
    alpha, sigma, _, _ = path.coefficients(times)
    rates = 1.0 - (sigma / alpha)[1:] / (sigma / alpha)[:-1]
    x = torch.zeros_like(e).requires_grad_()
    for t, rate in zip(times, rates, strict=False):
        optimiser = torch.optim.SGD([x], lr=float(rate))
        pull(x, distillation_gradient(teacher.field(), path, x, e, t.expand(len(e)))).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    start = sigma[0] * e  # x_c = 0 at the first time
    solution = solve(teacher.field(), start, solver=DDIM(), controller=FixedSteps(len(times) - 1), span=(0.02, 0.98))
    assert torch.allclose(alpha[-1] * x + sigma[-1] * e, solution.x, rtol=0.0, atol=1e-12)


def distil(**options):
    task = PointDistillation(MixtureTeacher(), count=600, steps=200, **options)
    optimiser = SGD().build([task.points], 0.03)
    for step in range(200):
        optimiser.zero_grad()
        task({"instance": torch.arange(600)}, step=step, generator=Rows(step, total=600)).total.backward()
        optimiser.step()
    return task.evaluate(Instances(count=600).split("test"), sampler=Sampler())


def test_it_keeps_the_weights_of_the_modes_where_score_distillation_collapses():
    consistent, score = distil(), distil(noise="fresh", times="random")
    assert consistent["weight_error"] <= 0.04
    assert consistent["correlation"] >= 0.95
    assert score["largest"] >= 0.95


def test_only_the_points_of_the_batch_move():
    task = PointDistillation(MixtureTeacher(), count=10, steps=5)
    task({"instance": torch.tensor([2, 7])}, step=1).total.backward()
    moved = task.points.grad.abs().sum(1) > 0
    assert moved.nonzero().flatten().tolist() == [2, 7]


def test_mistakes_are_one_line():
    task = PointDistillation(MixtureTeacher(), count=3)
    with pytest.raises(UserError, match="has instance 5"):
        task({"instance": torch.tensor([5])})
    with pytest.raises(UserError, match="first"):
        PointDistillation(MixtureTeacher(), first=0.9, last=0.1)
    with pytest.raises(UserError, match="weights"):
        MixtureTeacher(weights=[0.5, -0.1])
