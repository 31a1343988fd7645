"""The switches of Simple ReFlow and the loss of Rectified Diffusion: gradients, laws, filters."""

from __future__ import annotations

import math

import pytest
import torch

from flowkit.couplings import Batch, GivenPairs
from flowkit.errors import UserError
from flowkit.fields.predictions import DataPrediction
from flowkit.nn.mlp import MLP
from flowkit.objectives.ada_flow import AdaFlow
from flowkit.objectives.distance import PseudoHuber
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.high_pass import HighPass
from flowkit.objectives.objective import Networks
from flowkit.objectives.rectified_diffusion import RectifiedDiffusion
from flowkit.objectives.simple_reflow import SimpleReFlow
from flowkit.objectives.weighting import RelativeLoss
from flowkit.paths.linear import LinearPath
from flowkit.paths.trigonometric import TrigonometricPath
from flowkit.paths.vp_beta import VPBetaPath
from flowkit.random import Rows
from flowkit.times import ExponentialTimes, UniformTimes


def built(objective: FlowMatching) -> Networks:
    torch.manual_seed(0)
    return Networks.build(objective.needs(), lambda spec: MLP(spec, width=16, depth=2)).double()


def pairs(n: int = 32) -> Batch:
    x0 = torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return Batch(x1=2.0 * x0 + 1.0, x0=x0)


def gradients(networks: Networks) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in networks.parameters() if p.grad is not None])


def test_the_relative_weight_gives_the_gradient_of_the_mean_log_loss():
    objective = SimpleReFlow(coupling=GivenPairs(), weighting=RelativeLoss(1e-12))
    networks = built(objective)
    objective.loss(networks, pairs(), generator=Rows(3, 0, 32)).total.backward()
    weighted = gradients(networks)
    networks.zero_grad()
    plain = SimpleReFlow(coupling=GivenPairs(), weighting=None)
    plain.loss(networks, pairs(), generator=Rows(3, 0, 32)).terms["flow"].log().mean().backward()
    assert torch.allclose(weighted, gradients(networks), rtol=1e-9, atol=1e-12)


def test_the_loss_of_an_evaluation_is_the_plain_one_and_tells_how_good_a_model_is():
    objective = SimpleReFlow(coupling=GivenPairs())
    networks = built(objective)
    told = objective.loss(networks, pairs(), generator=Rows(3, 0, 32)).terms["error"]
    networks.eval()
    found = objective.loss(networks, pairs(), generator=Rows(3, 0, 32))
    assert torch.equal(found.terms["flow"], told)
    assert torch.equal(found.total, told.mean())
    assert not torch.allclose(told, torch.ones_like(told), rtol=0.1)


def test_the_floor_bounds_the_weight():
    assert RelativeLoss(0.01)(torch.tensor([0.0, 0.005, 0.5])).tolist() == pytest.approx([100.0, 100.0, 2.0])


def test_exponential_times():
    law, path = ExponentialTimes(), LinearPath()
    t = law.draw(200_000, path, torch.Generator().manual_seed(0)).t
    assert float(t.median()) == pytest.approx(1.0 - math.log10(5.5), abs=0.004)
    assert float(t.mean()) == pytest.approx(1 / math.log(10) - 1 / 9, abs=0.003)
    grid = torch.linspace(0.0, 1.0, 10_001, dtype=torch.float64)
    assert float(torch.trapezoid(law.density(grid, path), grid)) == pytest.approx(1.0, abs=1e-6)
    assert float(law.density(grid[:1], path)) == pytest.approx(10 * math.log(10) / 9)


@pytest.mark.parametrize("axes", [[-2, -1], [-1], [-2]])
def test_the_high_pass_filter_is_inverted_and_keeps_constants(axes: list[int]):
    phi = HighPass(10.0, axes)
    x = torch.randn(3, 2, 8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(phi.invert(phi.apply(x)), x, atol=1e-10)
    assert torch.allclose(phi.apply(torch.ones_like(x)), torch.ones_like(x), atol=1e-12)
    checker = (-1.0) ** torch.arange(8, dtype=torch.float64)[:, None].expand(1, 8, 5)
    if -2 in axes:  # the highest frequency is multiplied by 1 + strength
        assert torch.allclose(phi.apply(checker), 11.0 * checker, atol=1e-12)


def test_the_high_pass_error_is_least_at_the_mean():
    data = torch.randn(64, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 3.0
    guess = data.mean(0, keepdim=True).clone().requires_grad_()
    HighPass()(guess.expand_as(data), data, None).mean().backward()
    assert guess.grad is not None
    assert float(guess.grad.abs().max()) < 1e-12
    with pytest.raises(UserError, match="has not the axes"):
        HighPass()(data[:, 0], data[:, 0], None)


def test_rectified_diffusion_on_the_linear_path_is_reflow_of_the_data_prediction():
    student = RectifiedDiffusion(coupling=GivenPairs(), distance=None)
    plain = FlowMatching(coupling=GivenPairs(), prediction=DataPrediction(), times=UniformTimes(0.0, 0.98))
    networks = built(plain)
    losses = [float(o.loss(networks, pairs(), generator=Rows(3, 0, 32)).total.detach()) for o in (student, plain)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("path", [TrigonometricPath(), VPBetaPath(), LinearPath()])
def test_its_loss_is_the_pseudo_huber_of_the_data(path):
    student = RectifiedDiffusion(path=path, coupling=GivenPairs())
    networks, batch = built(student), pairs()
    loss = student.loss(networks, batch, generator=Rows(3, 0, 32))
    _, point, _, _ = student.draw(batch, Rows(3, 0, 32))
    gap = networks.main((point.xt,), (point.t,), batch.cond)["v"] - batch.x1
    expected = ((gap.square() + 1e-6).sqrt() - 0.001).mean(1)
    assert torch.allclose(loss.terms["flow"], expected, atol=1e-12)
    assert float(point.t.max()) <= 0.98


def test_an_objective_with_a_loss_of_its_own_refuses_both_parts():
    with pytest.raises(UserError, match="AdaFlow has a loss of its own"):
        AdaFlow(distance=PseudoHuber())
    with pytest.raises(UserError, match="AdaFlow has a loss of its own"):
        AdaFlow(weighting=RelativeLoss())
    with pytest.raises(UserError, match="leave error and reduce"):
        FlowMatching(distance=PseudoHuber(), error="velocity")
