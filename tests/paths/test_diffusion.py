"""Diffusion schedules: the levels of the papers' formulas, the loss of Diffusion Policy, numbers in float32."""

from __future__ import annotations

import math

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from flowkit.cond import Cond
from flowkit.couplings import Batch
from flowkit.errors import UserError
from flowkit.fields import NetworkField, NoisePrediction
from flowkit.nn.mlp import MLP
from flowkit.nn.network import NetworkSpec
from flowkit.objectives import FlowMatching, Networks
from flowkit.paths import DiffusionPath
from flowkit.random import Rows
from flowkit.times import GridTimes


def cosine_levels(steps: int) -> list[float]:
    """ab_k of squaredcos_cap_v2, by plain products."""
    f = lambda r: math.cos((r + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
    levels, product = [], 1.0
    for i in range(steps):
        product *= 1 - min(1 - f((i + 1) / steps) / f(i / steps), 0.999)
        levels.append(product)
    return levels


def linear_levels(steps: int) -> list[float]:
    levels, product = [], 1.0
    for i in range(steps):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * i / (steps - 1))
        levels.append(product)
    return levels


@pytest.mark.parametrize(("schedule", "levels"), [("squaredcos_cap_v2", cosine_levels), ("linear", linear_levels)])
@pytest.mark.parametrize("steps", [10, 100, 1000])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_the_levels_are_those_of_the_formula(
    schedule: str, levels: object, steps: int, dtype: torch.dtype, tolerance: float
) -> None:
    path = DiffusionPath(schedule, steps)  # type: ignore[arg-type]
    t = torch.tensor([1 - (k + 1) / steps for k in range(steps)], dtype=dtype)
    alpha, sigma, _, _ = path.coefficients(t)
    ab = torch.tensor(levels(steps), dtype=torch.float64)  # type: ignore[operator]
    scale = 1 if dtype == torch.float64 else steps / 100  # times near t = 0 are told apart less well
    torch.testing.assert_close(alpha.double(), ab.sqrt(), rtol=tolerance * scale, atol=0)
    torch.testing.assert_close(sigma.double(), (1 - ab).sqrt(), rtol=tolerance * scale, atol=1e-12)
    end = path.coefficients(torch.ones(1, dtype=dtype))
    assert float(end.alpha) == 1.0
    assert float(end.sigma) < 1e-7


@pytest.mark.parametrize("schedule", ["squaredcos_cap_v2", "linear"])
def test_between_the_levels_the_curve_is_smooth_and_monotone(schedule: str) -> None:
    path = DiffusionPath(schedule, 20)  # type: ignore[arg-type]
    t = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:-1]
    alpha, sigma, _, _ = path.coefficients(t)
    assert (alpha.diff() > 0).all()
    assert (sigma.diff() < 0).all()
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t), rtol=0, atol=1e-14)
    # Slopes from both sides of every level agree.
    knots = torch.arange(1, 20, dtype=torch.float64) / 20
    before, after = path.coefficients(knots - 1e-9), path.coefficients(knots + 1e-9)
    torch.testing.assert_close(before.d_alpha, after.d_alpha, rtol=1e-6, atol=0)
    torch.testing.assert_close(before.d_sigma, after.d_sigma, rtol=1e-6, atol=0)


def test_the_loss_is_that_of_diffusion_policy() -> None:
    """mean |e_hat(sqrt(ab_k) a + sqrt(1 - ab_k) e, k) - e|^2 with k uniform over 100 levels."""
    objective = FlowMatching(path=DiffusionPath(), prediction=NoisePrediction(), times=GridTimes(100))
    torch.manual_seed(0)
    nets = Networks.build(objective.needs(), lambda spec: MLP(spec, dimension=6, width=32))
    a = torch.randn(64, 6, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    _, point, weight, _ = objective.draw(Batch(x1=a), Rows(5, 0, 64))
    ours = objective.loss(nets, Batch(x1=a), generator=Rows(5, 0, 64))
    k = (100 * (1 - point.t)).round().long() - 1
    assert int(k.min()) >= 0
    assert int(k.max()) <= 99
    assert len(k.unique()) > 30
    ab = torch.tensor(cosine_levels(100))[k][:, None]
    noisy = ab.sqrt() * a + (1 - ab).sqrt() * point.x0
    with torch.no_grad():
        predicted = nets.main((noisy,), (1 - (k + 1) / 100,), Cond())["v"]
    torch.testing.assert_close(ours.terms["flow"].detach(), (predicted - point.x0).square().mean(1), rtol=1e-4, atol=0)
    assert torch.equal(weight, torch.ones(64))


class Told(MLP):
    """Predicts the noise it was told."""

    answer: Tensor

    def forward(self, inputs: object, times: object, cond: Cond) -> dict[str, Tensor]:
        return {"v": self.answer}


@pytest.mark.parametrize("error", [0.0, 0.05, 1.0])
def test_noise_goes_through_the_velocity_and_back_in_float32(error: float) -> None:
    """At t = 0 alpha is 4.9e-4, and the network may be wrong: its noise is still read off the velocity to 1e-4."""
    path, generator = DiffusionPath(), torch.Generator().manual_seed(0)
    levels = torch.cat((torch.zeros(1), torch.tensor([1e-4, 1e-3]), torch.arange(1, 100) / 100))
    t = levels.repeat_interleave(50)
    x0, x1 = torch.randn(len(t), 4, generator=generator), torch.randn(len(t), 4, generator=generator).clamp(-1, 1)
    network = Told(NetworkSpec(), dimension=4)
    network.answer = x0 + error * torch.randn(len(t), 4, generator=generator)
    x = path.at(x0, x1, t).xt
    v = NetworkField(network, path, NoisePrediction())(x, t).v
    assert float((path.noise(x, v, t) - network.answer).abs().max()) < 1e-4
    # The data that the noise means, to the rounding of x itself: |x| 6e-8 / alpha.
    alpha, sigma, _, _ = (c[:, None] for c in path.coefficients(t.double()))
    means = (x.double() - sigma * network.answer.double()) / alpha
    off = (path.data(x, v, t) - means).abs() * alpha
    assert float(off.max()) < 2e-6 * (1 + error)


def test_what_it_cannot_be() -> None:
    with pytest.raises((UserError, TypeCheckError), match="squaredcos_cap_v2"):
        DiffusionPath("cosine")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="at least 1, not 0"):
        DiffusionPath(steps=0)
    with pytest.raises(UserError, match="beta_start"):
        DiffusionPath("linear", beta_start=0.5, beta_end=0.1)
    assert DiffusionPath(steps=1).coefficients(torch.tensor([0.0])).alpha.item() == pytest.approx(math.sqrt(1e-3))
