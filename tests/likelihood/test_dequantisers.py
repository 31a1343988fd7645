"""From codes to states: what lies in the bin, its density, and the bounds of exact masses."""

from __future__ import annotations

import math

import pytest
import torch

from flowkit.errors import UserError
from flowkit.likelihood import log_likelihood
from flowkit.metrics.dequantisers import (
    Levels,
    TruncatedNormal,
    Uniform,
    code_bound,
    mass_bits_per_dim,
    truncated_mass,
    truncated_mean_log_density,
)
from flowkit.metrics.quantised import bits_per_dim, dequantised_bound
from flowkit.metrics.variational import prior_divergence, reconstruction
from flowkit.paths import ConstantAccelerationPath, LinearPath, SPLogSNRPath, VPLogSNRPath
from flowkit.solvers.controllers import Tolerance
from flowkit.testing import GaussianMixture, QuantisedMixture

VP = VPLogSNRPath()


@pytest.fixture(scope="module")
def law() -> QuantisedMixture:
    return QuantisedMixture(GaussianMixture.ring(components=3, radius=0.5, scale=0.05), VP)


def density(law: QuantisedMixture):
    return lambda x, t: law.log_prob(x, torch.full((len(x),), t, dtype=torch.float64))


def test_the_published_constants_of_the_truncated_normal():
    alpha, sigma, _, _ = VP.coefficients(torch.ones((), dtype=torch.float64))
    tau = float(alpha / (256.0 * sigma))
    assert tau == pytest.approx(3.01869, abs=1e-5)
    assert truncated_mass(tau) == pytest.approx(0.997461, abs=1e-6)


@pytest.mark.parametrize("path", [VP, SPLogSNRPath(), LinearPath()])
def test_truncated_noise_stays_in_its_bin_and_states_its_density(path):
    codes = torch.randint(256, (20_000, 2), generator=torch.Generator().manual_seed(0))
    dequantiser = TruncatedNormal()
    t = dequantiser.time(path)
    x, log_q = dequantiser.draw(codes, path, torch.Generator().manual_seed(1), dtype=torch.float64)
    alpha, sigma, _, _ = path.coefficients(torch.tensor([t], dtype=torch.float64))
    assert 2.0 * math.log(float(sigma / alpha)) == pytest.approx(-13.3, abs=1e-6)
    assert torch.equal(((x / alpha + 1.0) * 128.0).floor().long(), codes)
    e = (x - alpha * Levels().centres(codes, torch.float64)) / sigma
    assert float(e.std()) == pytest.approx(0.9875, abs=0.01)
    expected = 2.0 * truncated_mean_log_density(float(alpha / (256.0 * sigma)), float(sigma))
    assert float(log_q.mean()) == pytest.approx(expected, abs=4.0 * float(log_q.std()) / math.sqrt(20_000))


@pytest.mark.parametrize("tau", [0.5, 3.01869])
def test_the_mean_log_density_is_that_of_quadrature(tau):
    e, sigma = torch.linspace(-tau, tau, 200_001, dtype=torch.float64), 0.3
    log_q = -0.5 * e.square() - 0.5 * math.log(2.0 * math.pi) - math.log(sigma * truncated_mass(tau))
    mean = torch.trapezoid((log_q + math.log(sigma)).exp() * log_q, e)
    assert truncated_mean_log_density(tau, sigma) == pytest.approx(float(mean), abs=1e-8)


def test_masses_add_to_one_and_samples_follow_them(law):
    every = torch.cartesian_prod(torch.arange(256), torch.arange(256))
    mass = law.log_mass(every).exp()
    assert float(mass.sum()) == pytest.approx(1.0, abs=1e-9)
    codes = law.sample(20_000, torch.Generator().manual_seed(0))
    found, entropy = law.log_mass(codes), float((mass * mass.clamp_min(1e-300).log()).sum())
    assert float(found.mean()) == pytest.approx(entropy, abs=4.0 * float(found.std()) / math.sqrt(20_000))


def test_the_exact_field_is_the_gradient_of_its_density(law):
    t = torch.tensor([0.2, 0.5, 0.8, 0.95], dtype=torch.float64)
    x = VP.at(
        torch.randn(4, 2, dtype=torch.float64), torch.full((4, 2), 0.3, dtype=torch.float64), t
    ).xt.requires_grad_()
    (score,) = torch.autograd.grad(law.log_prob(x, t).sum(), x)
    with torch.no_grad():
        found = VP.score(x, law(x, t).v, t, assume_independent_gaussian=True)
    assert torch.allclose(found, score, rtol=1e-6, atol=1e-8)


def test_truncated_noise_bounds_the_mass_closely_and_uniform_noise_less(law):
    codes = law.sample(2000, torch.Generator().manual_seed(0))
    exact = mass_bits_per_dim(law.log_mass(codes), 2).mean()
    bits = {}
    for name, dequantiser in (("truncated", TruncatedNormal()), ("uniform", Uniform())):
        bound = code_bound(
            density(law), codes, dequantiser, VP, generator=torch.Generator().manual_seed(1), dtype=torch.float64
        )
        bits[name] = float(mass_bits_per_dim(bound, 2).mean())
    assert abs(bits["truncated"] - exact) < 0.02
    assert bits["uniform"] > bits["truncated"] + 0.1


def test_the_solver_gives_the_same_bound_as_the_closed_form(law):
    codes, generator = law.sample(8, torch.Generator().manual_seed(0)), torch.Generator()

    def solved(x, t):
        found = log_likelihood(law, x, span=(t, 0.0), controller=Tolerance(rtol=1e-5, atol=1e-5))
        return found.log_density

    one, two = (
        code_bound(f, codes, TruncatedNormal(), VP, generator=generator.manual_seed(2), dtype=torch.float64)
        for f in (solved, density(law))
    )
    # The prior leaves out what x_0 still holds of the data.
    assert torch.allclose(one, two, atol=0.02)


def test_more_draws_tighten_the_bound_up_to_the_mass_and_log_k_is_in_it(law):
    codes = law.sample(1, torch.Generator().manual_seed(0)).expand(1000, -1)
    mass, means = float(law.log_mass(codes[:1])), []
    for k in (1, 3, 9):
        bound = code_bound(
            density(law),
            codes,
            Uniform(),
            VP,
            samples=k,
            generator=torch.Generator().manual_seed(5),
            dtype=torch.float64,
        )
        means.append(float(bound.mean()))
    assert means[0] < means[1] < means[2] < mass + 0.03
    # A density equal to q gives log 1 = 0 for every K; without - log K it would be log K.
    flat = code_bound(
        lambda x, t: x.new_full((len(x),), 2.0 * math.log(128.0)), codes[:3], Uniform(), LinearPath(), samples=7
    )
    assert torch.allclose(flat, torch.zeros(3, dtype=torch.float64), atol=1e-6)


def test_uniform_noise_is_the_older_bound_with_its_constant():
    codes = torch.randint(256, (50, 3), generator=torch.Generator().manual_seed(0))

    def log_density(x):
        return -0.5 * x.square().sum(1)

    new = code_bound(
        lambda x, t: log_density(x),
        codes,
        Uniform(),
        LinearPath(),
        samples=3,
        generator=torch.Generator().manual_seed(1),
    )
    old = dequantised_bound(log_density, codes, samples=3, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(mass_bits_per_dim(new, 3).float(), bits_per_dim(old, 3), atol=1e-4)


def test_the_variational_bound_holds_for_the_exact_field(law):
    generator, n = torch.Generator().manual_seed(0), 4000
    codes = law.sample(n, generator)
    x1 = Levels().centres(codes, torch.float64)
    u = (torch.rand(1, generator=generator) + torch.arange(n) / n) % 1.0
    t = VP.time_at(VP.quantile(u)).double()
    x0 = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    point = VP.at(x0, x1, t)
    alpha, sigma, _, _ = VP.coefficients(t)
    x0_hat = (point.xt - alpha[:, None] * law.data(point.xt, t)) / sigma[:, None]
    integral = 0.5 * (x0 - x0_hat).square().sum(1) * VP.mass / alpha.square()
    recon = reconstruction(codes, VP, generator)
    bound = float((integral + recon + prior_divergence(x1, VP)).mean())
    exact = -float(law.log_mass(codes).mean())
    error = 4.0 * float(integral.std()) / math.sqrt(n)
    assert exact - error < bound < exact + error + 0.2
    assert 0.0 <= float(recon.mean()) < 0.02


def test_what_a_path_cannot_give_is_refused():
    with pytest.raises(
        UserError, match="truncated dequantisation needs an affine path, ConstantAccelerationPath is none"
    ):
        TruncatedNormal().time(ConstantAccelerationPath(1.0))
    with pytest.raises(UserError, match=r"which LinearPath\(floor=0.1\) does not reach: say uniform"):
        TruncatedNormal().time(LinearPath(floor=0.1))
