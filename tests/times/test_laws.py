"""Laws of training times: densities integrate to 1, draws follow them, weights are unbiased."""

from __future__ import annotations

import pytest
import torch

from flowkit.errors import UserError
from flowkit.paths import LinearPath
from flowkit.random import Rows
from flowkit.times import (
    GridTimes,
    ImportanceTimes,
    LogitNormalTimes,
    StratifiedTimes,
    TimeLaw,
    UniformTimes,
    UShapedTimes,
)

PATH = LinearPath()
LAWS = [
    UniformTimes(),
    UniformTimes(0.1, 0.7),
    StratifiedTimes(),
    StratifiedTimes(0.2, 1.0),
    LogitNormalTimes(),
    LogitNormalTimes(-0.5, 0.7),
    UShapedTimes(),
    UShapedTimes(1.0),
    ImportanceTimes([1.0, 4.0, 2.0, 0.5]),
]
every_law = pytest.mark.parametrize("law", LAWS, ids=repr)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@every_law
def test_density_integrates_to_one(law: TimeLaw) -> None:
    t = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    assert law.density(t, PATH).mean().item() == pytest.approx(1.0, abs=1e-5)


@every_law
@pytest.mark.parametrize("source", ["generator", "rows"])
def test_histogram_follows_the_density(law: TimeLaw, source: str) -> None:
    n, bins = 60_000, 20
    times = law.draw(n, PATH, generator() if source == "generator" else Rows(3, 0, n))
    assert times.t.shape == times.weight.shape == (n,)
    assert bool(((times.t >= 0) & (times.t <= 1)).all())
    counts = torch.histc(times.t, bins, 0.0, 1.0) / n
    fine = (torch.arange(bins * 500, dtype=torch.float64) + 0.5) / (bins * 500)
    expected = law.density(fine, PATH).reshape(bins, 500).mean(1) / bins
    deviation = (expected * (1 - expected) / n).sqrt().clamp_min(1e-5)
    assert float(((counts - expected) / deviation).abs().max()) < 5.0


@every_law
def test_weights_are_one_or_the_inverse_density(law: TimeLaw) -> None:
    times = law.draw(1000, PATH, generator())
    if isinstance(law, ImportanceTimes):
        torch.testing.assert_close(times.weight, 1.0 / law.density(times.t, PATH))
    else:
        assert torch.equal(times.weight, torch.ones(1000))


def test_stratified_times_are_even_in_the_batch_and_across_processes() -> None:
    t = StratifiedTimes().draw(64, PATH, generator()).t.sort().values
    torch.testing.assert_close(t.diff(), torch.full((63,), 1 / 64), rtol=0.0, atol=1e-6)
    whole = StratifiedTimes().draw(8, PATH, Rows(5, 0, 8)).t
    halves = [StratifiedTimes().draw(4, PATH, Rows(5, first, 8)).t for first in (0, 4)]
    assert torch.equal(whole, torch.cat(halves))


@every_law
def test_keyed_times_do_not_depend_on_the_split(law: TimeLaw) -> None:
    whole = law.draw(8, PATH, Rows(5, 0, 8)).t
    assert torch.equal(whole, torch.cat([law.draw(4, PATH, Rows(5, first, 8)).t for first in (0, 4)]))


def loss_of(t: torch.Tensor) -> torch.Tensor:
    return 0.05 + 10.0 * torch.exp(-50.0 * (t - 0.8).square())


def test_importance_adapts_and_stays_unbiased() -> None:
    law, rng = ImportanceTimes(adapt=True, bins=20, momentum=0.9), generator()
    for _ in range(60):
        times = law.draw(256, PATH, rng)
        law.record(times.t, loss_of(times.t))
    times = law.draw(20_000, PATH, rng)
    weighted = times.weight * loss_of(times.t)
    plain = loss_of(UniformTimes().draw(20_000, PATH, rng).t)
    exact = loss_of((torch.arange(10_000) + 0.5) / 10_000).mean().item()
    assert weighted.mean().item() == pytest.approx(exact, abs=4 * weighted.std().item() / 20_000**0.5)
    assert weighted.var().item() < 0.2 * plain.var().item()
    assert float(times.weight.max()) <= 1.0 / law.uniform_share + 1e-4
    # The density is the root mean square of the loss, up to the uniform share.
    centres = (torch.arange(20) + 0.5) / 20
    root = loss_of(centres)
    expected = 0.1 + 0.9 * root / root.mean()
    torch.testing.assert_close(law.density(centres, PATH), expected, rtol=0.25, atol=0.05)


def test_importance_state_is_saved() -> None:
    law = ImportanceTimes(adapt=True, bins=8)
    law.record(torch.rand(100, generator=generator()), torch.rand(100, generator=generator()))
    other = ImportanceTimes(adapt=True, bins=8)
    other.load_state_dict(law.state_dict())
    assert torch.equal(law.draw(50, PATH, Rows(1)).t, other.draw(50, PATH, Rows(1)).t)
    fixed = ImportanceTimes(bins=8)
    fixed.record(torch.rand(10), torch.rand(10))
    assert torch.equal(fixed.heights, torch.ones(8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UniformTimes(0.5, 0.5), "low"),
        (lambda: StratifiedTimes(-0.1, 0.5), "low"),
        (lambda: LogitNormalTimes(deviation=0.0), "deviation"),
        (lambda: UShapedTimes(0.0), "rate"),
        (lambda: ImportanceTimes([1.0, 0.0]), "positive height"),
        (lambda: ImportanceTimes(bins=0), "positive height"),
        (lambda: ImportanceTimes(adapt=True, uniform_share=0.0), "uniform_share"),
        (lambda: ImportanceTimes(momentum=1.0), "momentum"),
    ],
)
def test_refusals(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("steps", [1, 3])
def test_grid_times_are_those_of_an_euler_sampler_equally_often(steps: int) -> None:
    times = GridTimes(steps).draw(9000, PATH, generator())
    values, counts = times.t.unique(return_counts=True)
    torch.testing.assert_close(values, torch.arange(steps) / steps)
    assert (counts - 9000 / steps).abs().max() < 5 * (9000 / steps) ** 0.5
    assert (times.weight == 1).all()


def test_backward_grid_times_begin_at_the_data() -> None:
    times = GridTimes(4, backward=True).draw(1000, PATH, generator())
    torch.testing.assert_close(times.t.unique(), torch.tensor([0.25, 0.5, 0.75, 1.0]))
    assert (GridTimes(backward=True).draw(9, PATH, generator()).t == 1).all()


def test_grid_times_need_a_step() -> None:
    with pytest.raises(UserError, match="at least 1"):
        GridTimes(0)
