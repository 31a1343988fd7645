"""i-DODE: its constants, the likelihood's weight for every prediction, importance sampling, the second-order identity,
and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from flowkit.cond import Cond
from flowkit.couplings import Batch, GivenPairs
from flowkit.errors import UserError
from flowkit.fields import DataPrediction, DiffusionVelocity, NoisePrediction, Prediction
from flowkit.fields.predictions import Displacement, Velocity
from flowkit.likelihood import divergence
from flowkit.nn.mlp import MLP
from flowkit.nn.network import Network, NetworkSpec
from flowkit.objectives import IDODE, Networks
from flowkit.paths import AffinePath, LinearPath, SPLogSNRPath, TrigonometricPath, VPLogSNRPath
from flowkit.tensors import like
from flowkit.testing import GaussianMixture
from flowkit.times import LikelihoodTimes, StratifiedTimes, UniformTimes

VP, SP = VPLogSNRPath(), SPLogSNRPath()


def mixture(path: AffinePath) -> GaussianMixture:
    return GaussianMixture([0.5, 0.3, 0.2], [[0.5, 0.0], [-0.2, 0.4], [-0.3, -0.4]], 0.1, path)


class Says(Network):
    """A wrong but smooth guess of x0, or the best one of a law, put out in the terms of a prediction."""

    def __init__(self, prediction: Prediction, path: AffinePath, law: GaussianMixture | None = None) -> None:
        super().__init__(NetworkSpec())
        self.prediction, self.path, self.law = prediction, path, law

    def forward(self, inputs, times, cond: Cond) -> dict[str, Tensor]:
        x, t = inputs[0], times[0]
        x0 = torch.sin(2.0 * x) + 0.3 if self.law is None else self.law.noise(x.double(), t.double()).to(x)
        alpha, sigma, _, _ = self.path.coefficients(t)
        x1 = (x - like(sigma, x) * x0) / like(alpha, x)
        point = self.path.at(x0, x1, t)
        return {"v": self.prediction.target(point, self.path)}


@pytest.mark.parametrize(("path", "mass"), [(VP, 13.293286), (SP, 11.299108)])
def test_the_mass_of_the_density_is_the_published_one_and_its_quantile_inverts_it(path, mass):
    assert path.mass == pytest.approx(mass, abs=1e-6)
    gamma = torch.linspace(path.gamma_min, path.gamma_max, 200_001, dtype=torch.float64)
    square = path.coefficients(path.time_at(gamma)).alpha.square()
    below = torch.cat([torch.zeros(1, dtype=torch.float64), torch.cumulative_trapezoid(square, gamma)])
    assert float(below[-1]) == pytest.approx(mass, abs=1e-6)
    u = torch.linspace(0.0, 1.0, 9, dtype=torch.float64)
    at = torch.searchsorted(gamma, path.quantile(u).clamp(path.gamma_min, path.gamma_max)).clamp_max(200_000)
    assert torch.allclose(below[at] / mass, u, atol=2e-5)


@pytest.mark.parametrize("path", [VP, SP])
def test_coefficients_are_those_of_the_log_snr_and_their_derivatives(path):
    t = torch.linspace(0.0, 1.0, 21, dtype=torch.float64)
    alpha, sigma, d_alpha, d_sigma = path.coefficients(t)
    assert torch.allclose((sigma.square() / alpha.square()).log(), path.gamma(t))
    assert torch.allclose(alpha.square() + sigma.square() if path is VP else alpha + sigma, torch.ones_like(t))
    h = 1e-6
    inside = t[1:-1]
    up, down = path.coefficients(inside + h), path.coefficients(inside - h)
    assert torch.allclose(d_alpha[1:-1], (up.alpha - down.alpha) / (2 * h), atol=1e-6)
    assert torch.allclose(d_sigma[1:-1], (up.sigma - down.sigma) / (2 * h), atol=1e-6)
    assert torch.allclose(path.wronskian(t), d_alpha * sigma - alpha * d_sigma)
    assert torch.allclose(path.time_of(path.half_log_snr(t)), t)
    x0, x1 = torch.randn(21, 2, dtype=torch.float64), torch.randn(21, 2, dtype=torch.float64)
    point = path.at(x0, x1, t)
    assert torch.allclose(path.data(point.xt, point.vt, t), x1)
    assert torch.allclose(path.noise(point.xt, point.vt, t), x0)


@pytest.mark.parametrize("path", [VP, SP, LinearPath(), TrigonometricPath()])
def test_displacement_and_back(path):
    t = torch.linspace(0.01, 0.99, 7, dtype=torch.float64)
    x0, x1 = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    point, prediction = path.at(x0, x1, t), Displacement()
    assert torch.allclose(prediction.to_velocity(prediction.target(point, path), point.xt, t, path), point.vt)
    other = torch.randn(7, 3, dtype=torch.float64)
    one, two = (prediction.to_velocity(g, point.xt, t, path) for g in (prediction.target(point, path), other))
    ratio = (one - two).square().sum(1) / (prediction.target(point, path) - other).square().sum(1)
    assert torch.allclose(ratio, prediction.velocity_factor(t, path))


@pytest.mark.parametrize("path", [VP, SP])
def test_losses_of_one_model_are_equal_whatever_it_predicts(path):
    generator = torch.Generator().manual_seed(0)
    x1 = mixture(path).sample(64, generator)
    losses = []
    for prediction in (DiffusionVelocity(), Displacement(), NoisePrediction(), DataPrediction(), Velocity()):
        objective = IDODE(path=path, prediction=prediction)
        networks = Networks({"main": Says(prediction, path)})
        seeded = torch.Generator().manual_seed(1)
        losses.append(objective.loss(networks, Batch(x1=x1), generator=seeded).terms["flow"])
    for other in losses[1:]:
        assert torch.allclose(losses[0], other, rtol=1e-9, atol=1e-10)


def test_the_loss_is_half_the_integral_of_the_noise_error_over_gamma():
    gamma = torch.linspace(VP.gamma_min, VP.gamma_max, 4001, dtype=torch.float64)
    t, one = VP.time_at(gamma), torch.ones(4001, 2, dtype=torch.float64)
    point = VP.at(0.3 * one, 0.2 * one, t)
    output = Says(DiffusionVelocity(), VP)((point.xt,), (t,), Cond())["v"]
    objective = IDODE()
    weighted = objective.likelihood_weight(t) * objective.error_at(output, point.xt, point, Batch(x1=point.x1))
    guess = torch.sin(2.0 * point.xt) + 0.3
    half = 0.5 * torch.trapezoid((guess - 0.3).square().mean(1), gamma)
    assert float(torch.trapezoid(weighted.flip(0), t.flip(0))) == pytest.approx(float(half), rel=1e-9)


@pytest.mark.parametrize(("path", "prediction"), [(VP, DiffusionVelocity()), (SP, Displacement())])
def test_importance_and_uniform_times_agree_in_the_mean_and_importance_varies_less(path, prediction):
    law, means, deviations = mixture(path), {}, {}
    networks = Networks({"main": Says(prediction, path, law)})
    for name, times in (("importance", LikelihoodTimes(stratified=False)), ("uniform", UniformTimes())):
        generator = torch.Generator().manual_seed(3)
        objective = IDODE(path=path, prediction=prediction, times=times)
        losses = objective.loss(networks, Batch(x1=law.sample(100_000, generator).float()), generator=generator)
        term = losses.terms["flow"].double()
        means[name], deviations[name] = float(term.mean()), float(term.std())
    error = math.hypot(*deviations.values()) / math.sqrt(100_000)
    assert abs(means["importance"] - means["uniform"]) < 4.0 * error
    assert deviations["importance"] < deviations["uniform"]


def test_under_importance_times_the_weight_is_one_constant():
    t = LikelihoodTimes().draw(100, VP, torch.Generator().manual_seed(0))
    assert torch.allclose(t.weight * IDODE().likelihood_weight(t.t), torch.tensor(VP.mass / 2.0), rtol=1e-4)
    s = LikelihoodTimes().draw(100, SP, torch.Generator().manual_seed(0))
    weight = IDODE(path=SP, prediction=Displacement()).likelihood_weight(s.t)
    assert torch.allclose(s.weight * weight, torch.tensor(SP.mass), rtol=1e-4)
    assert torch.allclose(LikelihoodTimes().density(t.t, VP), 1.0 / t.weight)


def test_stratified_times_are_spread_over_the_whole_batch():
    t = LikelihoodTimes().draw(64, VP, torch.Generator().manual_seed(0)).t.double()
    grid = torch.linspace(0.0, 1.0, 100_001, dtype=torch.float64)
    below = torch.cumulative_trapezoid(LikelihoodTimes().density(grid, VP), grid)
    shares = torch.cat([torch.zeros(1, dtype=torch.float64), below])[torch.searchsorted(grid, t)]
    assert sorted((64 * shares).long().clamp_max(63).tolist()) == pytest.approx(range(64), abs=1)


@pytest.mark.parametrize(
    ("path", "prediction"),
    [
        (VP, DiffusionVelocity()),
        (SP, Displacement()),
        (LinearPath(), Velocity()),
        (TrigonometricPath(), NoisePrediction()),
    ],
)
def test_the_second_order_residual_has_mean_zero_at_the_exact_field_and_not_at_another(path, prediction):
    law, n = mixture(path), 60_000
    objective = IDODE(path=path, prediction=prediction, times=UniformTimes(0.05, 0.9))
    x1 = law.sample(n, torch.Generator().manual_seed(0))
    _, point, _, _ = objective.draw(Batch(x1=x1), torch.Generator().manual_seed(1))
    t = point.t.double()
    exact, exact_div = law.velocity(point.xt, t), law.divergence(point.xt, t)
    residual = objective.residual(exact, exact_div, point)
    for part in residual[t.argsort()].chunk(4):
        assert abs(float(part.mean())) < 4.5 * float(part.std()) / math.sqrt(len(part))
    wrong = objective.residual(exact + 0.5 * point.xt, exact_div + 1.0, point)
    assert abs(float(wrong.mean())) > 10.0 * float(wrong.std()) / math.sqrt(n)


def test_the_residual_is_that_of_the_card_on_both_paths_and_in_velocity_on_the_linear_one():
    g = torch.Generator().manual_seed(0)
    t = torch.rand(8, generator=g, dtype=torch.float64) * 0.9 + 0.05
    x0, x1, output = (torch.randn(8, 2, generator=g, dtype=torch.float64) for _ in range(3))
    div_out = torch.randn(8, generator=g, dtype=torch.float64)
    for path, prediction in ((VP, DiffusionVelocity()), (SP, Displacement()), (LinearPath(), Velocity())):
        point = path.at(x0, x1, t)
        alpha, sigma, _, _ = path.coefficients(t)
        square = (output - prediction.target(point, path)).square().sum(1)
        velocity = prediction.to_velocity(output, point.xt, t, path)
        # On all three paths the velocity is a multiple of the output, and x drops out.
        ratio = (velocity / output)[:, 0]
        expected = {
            "VPLogSNRPath": -(sigma * div_out - alpha * (2.0 - square)),
            "SPLogSNRPath": -(sigma * div_out - 2.0 / math.sqrt(2.0) + math.sqrt(2.0) * alpha * square),
            "LinearPath": (1.0 - t) * div_out + 2.0 - t * square,
        }[type(path).__name__]
        found = IDODE(path=path, prediction=prediction, times=UniformTimes()).residual(velocity, ratio * div_out, point)
        assert torch.allclose(found, expected, rtol=1e-8)


def test_the_second_order_term_uses_the_divergence_and_trains_through_it():
    torch.manual_seed(0)
    objective = IDODE(second_order=0.1)
    networks = Networks.build(objective.needs(), lambda spec: MLP(spec, dimension=1, width=16, depth=2)).double()
    batch = Batch(x1=torch.randn(32, 1, dtype=torch.float64) * 0.1)
    loss = objective.loss(networks, batch, generator=torch.Generator().manual_seed(0))
    (alone,) = torch.autograd.grad(loss.terms["second_order"].mean(), networks.main.first.weight, retain_graph=True)
    assert float(alone.abs().sum()) > 0.0
    # In one dimension a Rademacher probe is exact.
    seeded = torch.Generator().manual_seed(0)
    _, point, weight, _ = objective.draw(batch, seeded)
    value, div = divergence(objective.field(networks), point.xt, point.t, Cond())
    expected = 0.1 * weight * objective.likelihood_weight(point.t) * objective.residual(value.v, div, point).square()
    assert torch.allclose(loss.terms["second_order"], expected.double(), rtol=1e-5)
    with torch.no_grad():
        again = objective.loss(networks, batch, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(again.total, loss.total)
    assert set(IDODE().loss(networks, batch).terms) == {"flow"}


def test_padding_does_not_count():
    objective = IDODE(second_order=0.1, times=StratifiedTimes())
    networks = Networks.build(objective.needs(), lambda spec: MLP(spec, dimension=3, width=16, depth=2))
    x1 = torch.randn(4, 3)
    padding = torch.tensor([True, True, False]).expand(4, 3)
    garbage = x1.where(padding, torch.nan)
    losses = [
        objective.loss(
            networks, Batch(x1=x, cond=Cond(padding=padding)), generator=torch.Generator().manual_seed(0)
        ).total
        for x in (x1, garbage)
    ]
    assert torch.equal(losses[0], losses[1])


def test_what_makes_no_bound_is_refused():
    with pytest.raises(UserError, match="IDODE bounds the likelihood for the coupling Independent, not for GivenPairs"):
        IDODE(coupling=GivenPairs())
    with pytest.raises(UserError, match="second_order is a weight of at least 0"):
        IDODE(second_order=-1.0)
    with pytest.raises(UserError, match=r"LinearPath has another time: set path to VPLogSNRPath"):
        LikelihoodTimes().draw(3, LinearPath(), None)
    with pytest.raises(UserError, match="gamma_min < gamma_max"):
        VPLogSNRPath(1.0, 0.0)
