"""The oracle against autograd, Monte Carlo and the exact identities of the objectives card, 0.4."""

from __future__ import annotations

import math

import pytest
import torch

from flowkit.errors import UserError
from flowkit.fields import DataPrediction, DiffusionVelocity, NetworkField, NoisePrediction, ScorePrediction, Velocity
from flowkit.paths import AffinePath, LinearPath, PowerPath, TrigonometricPath, VEPath, VPBetaPath
from flowkit.random import Rows
from flowkit.testing import ExactNetwork, GaussianMixture, JointGaussian

PATHS = [LinearPath(), LinearPath(0.05), TrigonometricPath(), VPBetaPath(), VEPath(0.05, 10.0), PowerPath(2.0)]
every_path = pytest.mark.parametrize("path", PATHS, ids=repr)


def oracle(path: AffinePath) -> GaussianMixture:
    means = [
        [[1.0, -1.0, 0.5], [0.0, 2.0, 1.0]],
        [[-2.0, 0.3, 0.0], [1.0, -1.0, 0.2]],
        [[0.0, 0.0, 3.0], [0.5, 0.5, -2.0]],
    ]
    return GaussianMixture([0.2, 0.5, 0.3], torch.tensor(means, dtype=torch.float64), [0.5, 1.0, 0.2], path)


def points(mixture: GaussianMixture, n: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    t = torch.linspace(0.05, 0.95, n, dtype=torch.float64)
    return mixture.sample_at(t, torch.Generator().manual_seed(0)), t


@every_path
def test_score_is_the_gradient_of_log_prob(path: AffinePath) -> None:
    mixture = oracle(path)
    x, t = points(mixture)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(mixture.log_prob(x, t).sum(), x)
    torch.testing.assert_close(mixture.score(x, t), slope, rtol=1e-10, atol=1e-10)


@every_path
def test_divergence_is_the_trace_of_the_jacobian(path: AffinePath) -> None:
    mixture = oracle(path)
    x, t = points(mixture)
    jacobian = torch.stack(
        [
            torch.autograd.functional.jacobian(lambda y, i=i: mixture.velocity(y[None], t[i : i + 1])[0], x[i]).reshape(
                6, 6
            )  # type: ignore[misc]
            for i in range(len(t))
        ]
    )
    torch.testing.assert_close(mixture.divergence(x, t), jacobian.diagonal(dim1=1, dim2=2).sum(1), rtol=1e-9, atol=1e-9)


@every_path
def test_continuity_equation(path: AffinePath) -> None:
    """d log p / dt + v . score + div v = 0: density, field and divergence belong together."""
    mixture = oracle(path)
    x, t = points(mixture)
    t.requires_grad_()
    (rate,) = torch.autograd.grad(mixture.log_prob(x, t).sum(), t)
    t = t.detach()
    transport = (mixture.velocity(x, t) * mixture.score(x, t)).flatten(1).sum(1)
    torch.testing.assert_close(rate, -transport - mixture.divergence(x, t), rtol=1e-8, atol=1e-8)


@every_path
def test_divergence_and_conditional_variance(path: AffinePath) -> None:
    """div v = (alpha'/alpha) d + (B/sigma) d - E|u - v|^2 / (sigma B), B = -D / alpha (card 0.4)."""
    mixture = oracle(path)
    x, t = points(mixture)
    alpha, sigma, d_alpha, d_sigma = path.coefficients(t)
    b = d_sigma - sigma * d_alpha / alpha
    d = mixture.dimension
    expected = d_alpha / alpha * d + b / sigma * d - mixture.velocity_variance(x, t) / (sigma * b)
    torch.testing.assert_close(mixture.divergence(x, t), expected, rtol=1e-9, atol=1e-9)


def test_divergence_identity_on_the_linear_path() -> None:
    mixture = oracle(LinearPath())
    x, t = points(mixture)
    left = (1 - t) * mixture.divergence(x, t)
    torch.testing.assert_close(left, t * mixture.velocity_variance(x, t) - mixture.dimension, rtol=1e-10, atol=1e-10)


@every_path
def test_conversions_of_the_exact_field(path: AffinePath) -> None:
    mixture = oracle(path)
    x, t = points(mixture)
    field = mixture.field()
    v = field(x, t).v
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(path.data(x, v, t), mixture.data(x, t), **close)
    torch.testing.assert_close(path.noise(x, v, t), mixture.noise(x, t), **close)
    score = path.score(x, v, t, assume_independent_gaussian=field.independent_gaussian)
    torch.testing.assert_close(score, mixture.score(x, t), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(path.diffusion_velocity(x, v, t), mixture.diffusion_velocity(x, t), rtol=1e-9, atol=1e-9)


@every_path
@pytest.mark.parametrize(
    "prediction", [Velocity(), DataPrediction(), NoisePrediction(), ScorePrediction(), DiffusionVelocity()], ids=repr
)
def test_exact_network_gives_the_field_in_every_prediction(path: AffinePath, prediction: Velocity) -> None:
    mixture = oracle(path)
    x, t = points(mixture)
    field = NetworkField(ExactNetwork(mixture, prediction), path, prediction)
    torch.testing.assert_close(field(x, t).v, mixture.velocity(x, t), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", [LinearPath(), TrigonometricPath(), VPBetaPath()], ids=repr)
def test_the_field_is_the_conditional_mean(path: AffinePath) -> None:
    """E[(u - v(x_t, t)) f(x_t)] = 0 for every f, and E|u - v|^2 is the mean of the conditional variance."""
    mixture, n = GaussianMixture.ring(path=path), 40_000
    generator = torch.Generator().manual_seed(1)
    x1, x0 = mixture.sample(n, generator), torch.randn(n, 2, generator=generator, dtype=torch.float64)
    t = torch.rand(n, generator=generator, dtype=torch.float64) * 0.9 + 0.05
    point = path.at(x0, x1, t)
    rest = point.vt - mixture.velocity(point.xt, t)
    for f in (torch.ones_like(rest), point.xt, torch.cos(2.0 * point.xt), mixture.velocity(point.xt, t)):
        product = rest * f
        error = product.mean(0).abs() / (product.std(0) / math.sqrt(n))
        assert float(error.max()) < 4.5
    difference = rest.square().sum(1) - mixture.velocity_variance(point.xt, t)
    assert abs(float(difference.mean())) < 4.5 * float(difference.std()) / math.sqrt(n)


def test_density_of_the_data_and_samples() -> None:
    mixture = GaussianMixture([1.0, 3.0], [[0.0], [4.0]], [1.0, 0.5])
    x = torch.linspace(-6.0, 8.0, 4001, dtype=torch.float64)[:, None]
    assert torch.trapezoid(mixture.log_prob(x).exp(), x[:, 0]).item() == pytest.approx(1.0, abs=1e-8)
    samples = mixture.sample(40_000, Rows(2))
    assert samples.mean().item() == pytest.approx(3.0, abs=0.05)
    assert samples.var().item() == pytest.approx(0.25 * 1.0 + 0.75 * 0.25 + 0.25 * 0.75 * 16.0, rel=0.03)
    t = torch.ones(4001, dtype=torch.float64)
    torch.testing.assert_close(mixture.log_prob(x, t), mixture.log_prob(x))
    p = mixture.log_prob(x, torch.full_like(t, 0.4)).exp()
    assert torch.trapezoid(p, x[:, 0]).item() == pytest.approx(1.0, abs=1e-4)


def test_ends() -> None:
    mixture = oracle(LinearPath())
    x = torch.randn(4, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    zero, one = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    torch.testing.assert_close(mixture.data(x, one), x)
    torch.testing.assert_close(mixture.noise(x, zero), x)
    mean = torch.einsum("k,kij->ij", mixture.weights, mixture.means)
    torch.testing.assert_close(mixture.velocity(x, zero), mean - x)
    torch.testing.assert_close(mixture.velocity(x, one), x)


def test_a_sample_answers_alike_alone_and_in_a_batch_in_float32() -> None:
    mixture = GaussianMixture.ring(dtype=torch.float32)
    x, t = mixture.sample(5, torch.Generator().manual_seed(0)), torch.linspace(0.1, 0.9, 5)
    assert x.dtype == torch.float32
    v = mixture.velocity(x, t)
    assert v.dtype == torch.float32
    torch.testing.assert_close(torch.cat([mixture.velocity(x[i : i + 1], t[i : i + 1]) for i in range(5)]), v)
    wide = GaussianMixture.ring().velocity(x.double(), t.double())
    torch.testing.assert_close(v.double(), wide, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: GaussianMixture([1.0], [[0.0], [1.0]], 1.0),
        lambda: GaussianMixture([1.0, -1.0], [[0.0], [1.0]], 1.0),
        lambda: GaussianMixture([1.0], [[0.0]], -1.0),
        lambda: JointGaussian(torch.eye(2), torch.eye(2), 2.0 * torch.eye(2)),
    ],
)
def test_refusals(make: object) -> None:
    with pytest.raises(UserError):
        make()  # type: ignore[operator]


def joint() -> JointGaussian:
    root = torch.randn(4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    covariance = root @ root.T
    return JointGaussian(covariance[:2, :2], covariance[2:, 2:], covariance[:2, 2:])


def test_joint_gaussian_field_is_the_regression_on_its_pairs() -> None:
    field, n = joint(), 100_000
    x0, x1 = field.sample(n, torch.Generator().manual_seed(0))
    torch.testing.assert_close(x0.T @ x1 / n, field.cross, rtol=0.1, atol=0.1)
    t = torch.full((n,), 0.3, dtype=torch.float64)
    point = field.path.at(x0, x1, t)
    torch.testing.assert_close(point.xt.T @ point.xt / n, field.covariance(t[:1])[0], rtol=0.05, atol=0.05)
    product = (point.vt - field(point.xt, t).v)[:, :, None] * point.xt[:, None, :]
    assert float((product.mean(0) / product.std(0)).abs().max()) * math.sqrt(n) < 4.5


def test_joint_gaussian_density_moves_with_its_field() -> None:
    field = joint()
    t = torch.linspace(0.0, 1.0, 7, dtype=torch.float64).requires_grad_()
    x = torch.randn(7, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    rate, score = torch.autograd.grad(field.log_prob(x, t).sum(), (t, x))
    with torch.no_grad():
        expected = -(field(x, t).v * score).sum(1) - field.divergence(t)
    torch.testing.assert_close(rate, expected, rtol=1e-9, atol=1e-9)


def test_joint_gaussian_agrees_with_the_mixture_when_independent() -> None:
    mixture = GaussianMixture([1.0], [[0.0, 0.0]], 0.7)
    field = JointGaussian(*(c * torch.eye(2, dtype=torch.float64) for c in (1.0, 0.49, 0.0)))
    x, t = points(mixture)
    torch.testing.assert_close(field(x, t).v, mixture.velocity(x, t), rtol=1e-10, atol=1e-12)
    assert not field.independent_gaussian
