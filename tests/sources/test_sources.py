"""Laws of x0: moments, densities over unpadded elements, refusals."""

from __future__ import annotations

import math

import pytest
import torch

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.random import Rows
from flowkit.sources import DiagonalGaussian, Gaussian, Given, ScaledGaussian, Source


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def normal_log_prob(x: torch.Tensor, mean: torch.Tensor | float, deviation: torch.Tensor | float) -> torch.Tensor:
    law = torch.distributions.Normal(torch.as_tensor(mean).expand_as(x), torch.as_tensor(deviation).expand_as(x))
    return law.log_prob(x).flatten(1).sum(1)


PRIOR = Cond({"prior_mean": torch.full((20000, 3), 2.0), "prior_std": torch.full((20000, 3), 0.5)})


@pytest.mark.parametrize(
    ("source", "mean", "deviation"),
    [
        (Gaussian(), 0.0, 1.0),
        (ScaledGaussian(3.0, mean=-1.0), -1.0, 3.0),
        (DiagonalGaussian("prior_mean", "prior_std"), 2.0, 0.5),
        (DiagonalGaussian("prior_mean"), 2.0, 1.0),
    ],
    ids=repr,
)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_have_the_moments_of_the_density(
    source: Source, mean: float, deviation: float, temperature: float
) -> None:
    like = torch.empty(20000, 3)
    x0 = source.draw(like, PRIOR, generator(), temperature=temperature)
    assert x0.shape == like.shape
    assert x0.mean().item() == pytest.approx(mean, abs=0.03 * deviation)
    assert x0.std().item() == pytest.approx(deviation * temperature, rel=0.02)
    torch.testing.assert_close(source.log_prob(x0, PRIOR), normal_log_prob(x0, mean, deviation), rtol=1e-5, atol=1e-4)


def test_log_prob_reads_the_padding() -> None:
    x0 = torch.randn(2, 4, 5, generator=generator())
    padding = torch.arange(5)[None, None, :] < torch.tensor([5, 2])[:, None, None]
    spoiled = x0.masked_fill(~padding, math.nan)
    expected = torch.stack((normal_log_prob(x0[:1], 0.0, 1.0)[0], normal_log_prob(x0[1:, :, :2], 0.0, 1.0)[0]))
    torch.testing.assert_close(Gaussian().log_prob(spoiled, Cond(padding=padding)), expected)
    assert torch.isfinite(ScaledGaussian(2.0).log_prob(spoiled, Cond(padding=padding))).all()


def test_keyed_draws_do_not_depend_on_the_split() -> None:
    whole = Gaussian().draw(torch.empty(4, 3), Cond(), Rows(7, 0, 4))
    parts = [Gaussian().draw(torch.empty(2, 3), Cond(), Rows(7, first, 4)) for first in (0, 2)]
    assert torch.equal(whole, torch.cat(parts))


def test_given_takes_the_condition() -> None:
    x0 = torch.randn(3, 2, generator=generator())
    cond = Cond({"frame": x0})
    assert torch.equal(Given("frame").draw(torch.empty(3, 2), cond, None), x0)
    noisy = Given("frame", noise=0.1).draw(torch.empty(3, 2), cond, generator())
    assert 0.0 < (noisy - x0).abs().max().item() < 1.0
    with pytest.raises(UserError, match="no density"):
        Given("frame").log_prob(x0, cond)
    with pytest.raises(KeyError, match="there are: frame"):
        Given("x0").draw(torch.empty(3, 2), cond, None)


def test_only_the_standard_normal_allows_scores() -> None:
    assert Gaussian().standard_normal
    assert not any(source.standard_normal for source in (ScaledGaussian(), DiagonalGaussian(), Given()))


def test_refusals() -> None:
    with pytest.raises(UserError, match="scale must be positive, got 0"):
        ScaledGaussian(0.0)
    with pytest.raises(UserError, match="noise"):
        Given(noise=-1.0)
