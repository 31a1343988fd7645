"""Log-likelihood against closed forms; bits per dimension."""

from __future__ import annotations

import math

import pytest
import torch

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.fields import ClassifierFree, FunctionField, Rescheduled
from flowkit.likelihood import divergence, log_likelihood, sample_with_log_density
from flowkit.metrics import bits_per_dim, dequantise, dequantised_bound
from flowkit.paths import LinearPath, TrigonometricPath, VEPath
from flowkit.solvers.controllers import FixedSteps, Tolerance
from flowkit.solvers.rk4 import RK4
from flowkit.sources import ScaledGaussian
from flowkit.testing import GaussianMixture


@pytest.mark.parametrize("path", [LinearPath(), LinearPath(floor=0.05), TrigonometricPath()])
def test_exact_log_likelihood_is_that_of_the_oracle(path: LinearPath | TrigonometricPath) -> None:
    mixture = GaussianMixture.ring(path=path)
    x1 = mixture.sample_at(torch.ones(64), torch.Generator().manual_seed(0))
    out = log_likelihood(mixture.field(), x1, controller=Tolerance(rtol=1e-7, atol=1e-7))
    assert out.ok
    assert out.log_density is not None
    assert out.x.shape == x1.shape
    torch.testing.assert_close(out.log_density, mixture.log_prob(x1, torch.ones(64)), atol=1e-4, rtol=0)


def test_forward_and_backward_agree() -> None:
    mixture = GaussianMixture.ring()
    x0 = torch.randn(64, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    there = sample_with_log_density(mixture.field(), x0)
    back = log_likelihood(mixture.field(), there.x)
    assert there.log_density is not None
    assert back.log_density is not None
    assert float((there.log_density - back.log_density).abs().max()) < 1e-4
    torch.testing.assert_close(back.x, x0, atol=1e-4, rtol=0)


def test_a_scaled_source_and_the_variance_exploding_path_have_the_right_prior() -> None:
    # x1 = A x0 with A = 3: the field of x_t = (1 - t + 3 t) x0 is v = 2 x / (1 + 2 t).
    field = FunctionField(lambda x, t: 2 * x / (1 + 2 * t.to(x.dtype))[:, None])
    x1 = torch.linspace(-4, 4, 9, dtype=torch.float64)[:, None]
    out = log_likelihood(field, x1, source=ScaledGaussian(scale=2.0), controller=Tolerance(1e-9, 1e-9))
    expected = torch.distributions.Normal(0.0, 6.0).log_prob(x1)[:, 0]
    torch.testing.assert_close(out.log_density, expected, atol=1e-6, rtol=0)
    # At t = 0 the law is N(mu, sigma_max^2 + c^2), the prior N(0, sigma_max^2): near, and it is that prior which must
    # be used.
    path = VEPath()
    mixture = GaussianMixture([1.0], [[0.1]], 0.5, path)
    x1 = mixture.sample(20, torch.Generator().manual_seed(0))
    out = log_likelihood(mixture.field(), x1, controller=Tolerance(1e-8, 1e-8))
    assert out.log_density is not None
    assert float((out.log_density - mixture.log_prob(x1, torch.ones(20))).abs().max()) < 0.02
    x0 = torch.randn(3, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigma = path.coefficients(torch.zeros(1, dtype=torch.float64)).sigma
    torch.testing.assert_close(path.start(x0), sigma * x0)


def linear_field(d: int) -> tuple[FunctionField, torch.Tensor]:
    matrix = torch.randn(d, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.3
    return FunctionField(lambda x, t: x @ matrix.T), matrix


@pytest.mark.parametrize("probe", ["rademacher", "normal"])
def test_hutchinson_is_unbiased(probe: str) -> None:
    field, matrix = linear_field(4)
    n = 20_000
    x1 = torch.tensor([[1.0, -0.5, 0.3, 2.0]], dtype=torch.float64)
    exact = log_likelihood(field, x1, solver=RK4(), controller=FixedSteps(10)).log_density
    drawn = log_likelihood(
        field,
        x1.expand(n, 4),
        divergence="hutchinson",
        probe=probe,
        solver=RK4(),
        controller=FixedSteps(10),
        generator=torch.Generator().manual_seed(3),
    ).log_density
    assert exact is not None
    assert drawn is not None
    assert float((drawn.mean() - exact).abs()) < 4 * float(drawn.std()) / math.sqrt(n)
    # Variance of e^T A e: sum over the symmetric part off the diagonal (Rademacher) or all of it (normal), with factor
    # 2.
    symmetric = (matrix + matrix.T) / 2
    if probe == "rademacher":
        symmetric = symmetric - symmetric.diag().diag()
    assert float(drawn.var()) == pytest.approx(2 * float(symmetric.square().sum()), rel=0.1)


def test_rademacher_is_exact_on_a_diagonal_jacobian() -> None:
    field = FunctionField(lambda x, t: torch.sin(x))
    x1 = torch.randn(8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = log_likelihood(field, x1).log_density
    drawn = log_likelihood(field, x1, divergence="hutchinson", generator=torch.Generator().manual_seed(0)).log_density
    torch.testing.assert_close(drawn, exact, atol=1e-5, rtol=0)


def test_divergence_is_that_of_the_oracle_in_any_shape() -> None:
    mixture = GaussianMixture([0.5, 0.5], torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0)), [0.5, 1.0])
    x, t = mixture.sample(10, torch.Generator().manual_seed(1)), torch.linspace(0.05, 0.95, 10, dtype=torch.float64)
    _, div = divergence(mixture.field(), x, t, Cond())
    torch.testing.assert_close(div, mixture.divergence(x, t))


def test_padded_elements_have_no_density() -> None:
    _, matrix = linear_field(3)
    x1 = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x1[:, 2] = math.nan
    small = FunctionField(lambda x, t: x @ matrix[:2, :2].T)
    alone = log_likelihood(small, x1[:, :2]).log_density
    # The third element is padding: what the field says there, and what lies there, must not matter.
    wide = FunctionField(lambda x, t: torch.cat([x[:, :2] @ matrix[:2, :2].T, x[:, 2:] * math.nan], 1))
    padding = torch.tensor([True, True, False]).expand(5, 3)
    for mode in ("exact", "hutchinson"):
        out = log_likelihood(
            wide, x1, cond=Cond(padding=padding), divergence=mode, generator=torch.Generator().manual_seed(0)
        )
        assert bool(out.log_density.isfinite().all())
        if mode == "exact":
            torch.testing.assert_close(out.log_density, alone, atol=1e-5, rtol=0)


def test_the_condition_reaches_the_field_as_it_was() -> None:
    seen: list[Cond] = []

    def velocity(x: torch.Tensor, t: torch.Tensor, cond: Cond) -> torch.Tensor:
        seen.append(cond)
        return x * cond["rate"][:, None, None]

    rate = torch.tensor([0.5, -1.0], dtype=torch.float64)
    padding = torch.ones(2, 1, 3, dtype=torch.bool)
    x1 = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    field = FunctionField(velocity, takes_cond=True)
    out = log_likelihood(field, x1, cond=Cond({"rate": rate}, padding=padding), divergence="hutchinson")
    assert set(seen[0].values) == {"rate"}
    assert seen[0].padding is not None
    assert seen[0].padding.shape[1:] == (1, 3)
    z = x1 * torch.exp(-rate)[:, None, None]
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum((1, 2)) - 6 * rate
    torch.testing.assert_close(out.log_density, expected, atol=1e-5, rtol=0)


def test_the_density_has_a_tolerance_of_its_own() -> None:
    # 200 still elements would hide the error of l in the norm; a field whose divergence moves much, while x moves
    # little.
    d = 200

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        rate = (torch.cos(40 * t) * 0.05).to(x.dtype)[:, None]
        return rate * x

    x1 = torch.full((1, d), 0.01, dtype=torch.float64)
    exact = float(torch.distributions.Normal(0.0, 1.0).log_prob(x1 * math.exp(-0.05 * math.sin(40) / 40)).sum())
    exact -= d * 0.05 * math.sin(40) / 40
    loose = Tolerance(rtol=0.0, atol=1e-3)
    error = [
        abs(
            float(
                log_likelihood(
                    FunctionField(velocity), x1, divergence="hutchinson", controller=loose, density_weight=w
                ).log_density
            )
            - exact
        )  # type: ignore[arg-type]
        for w in (1e-3, 1.0)
    ]
    assert error[1] < 2e-3 < error[0]


def test_guided_fields_and_redrawn_conditions_are_refused() -> None:
    field = GaussianMixture.ring().field()
    guided = ClassifierFree(scale=2.0).apply(field)
    with pytest.raises(UserError, match="guided"):
        log_likelihood(guided, torch.zeros(1, 2))
    with pytest.raises(UserError, match="guided"):
        log_likelihood(Rescheduled(guided, TrigonometricPath()), torch.zeros(1, 2))
    with pytest.raises(UserError, match="redrawn"):
        log_likelihood(field, torch.zeros(1, 2), cond=Cond(redraw=lambda c, t, i, g: c))
    with pytest.raises((UserError, TypeError)):
        log_likelihood(field, torch.zeros(1, 2), divergence="hutch")  # type: ignore[arg-type]


def test_a_sample_that_does_not_arrive_has_no_density() -> None:
    field = FunctionField(lambda x, t: x * torch.where(x > 0, t.to(x.dtype)[:, None] ** -2, 1.0))
    out = log_likelihood(field, torch.tensor([[1.0], [-1.0]], dtype=torch.float64), max_evaluations=200)
    assert out.log_density is not None
    assert out.log_density.isnan().tolist() == [True, False]


def test_bits_per_dim_constants() -> None:
    # A uniform density over the byte cube has 8 bits per dimension, whatever the scaling.
    d = 12
    for low, high, constant in ((-1.0, 1.0, 7.0), (0.0, 1.0, 8.0)):
        log_density = torch.tensor([-d * math.log(high - low)])
        assert float(bits_per_dim(log_density, d, low=low, high=high)) == pytest.approx(8.0)
        assert float(bits_per_dim(torch.zeros(1), d, low=low, high=high)) == constant


def test_dequantised_bound_is_a_bound_and_tightens() -> None:
    # One byte of 4 levels on [0, 1]; the model density is 2 x: log P(k) = log of its mean over the cell.
    codes = torch.arange(4)[:, None]
    x = dequantise(codes, torch.Generator().manual_seed(0), low=0.0, high=1.0, levels=4)
    assert bool(((x * 4).floor().long() == codes).all())
    cell = torch.tensor(
        [(2 * k + 1) / 4 for k in range(4)]
    )  # mean of 2 x over the cell: the density that dequantisation bounds
    g, runs, means = torch.Generator().manual_seed(0), 4000, []
    for samples in (1, 8):
        bound = dequantised_bound(
            lambda x: (2 * x[:, 0]).log(),
            codes.repeat(runs, 1),
            samples=samples,
            generator=g,
            low=0.0,
            high=1.0,
            levels=4,
        )
        means.append(bound.reshape(runs, 4).mean(0))
    assert bool((means[0] < means[1]).all())
    assert bool((means[1] < cell.log() + 2e-3).all())
    # K = 1 on the first cell: E log(2 u / 4) = log(1/2) - 1, and - log K makes K = 8 a bound as well.
    assert float(means[0][0]) == pytest.approx(math.log(0.5) - 1, abs=0.06)
    torch.testing.assert_close(means[1], cell.log(), atol=0.1, rtol=0)
