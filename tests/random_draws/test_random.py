"""Keyed draws: the same for a row however the batch is split, padded or placed; and of the right law."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowkit.random import Rows, mix_seed, normal, normal_like, rademacher_like, stratified, uniform


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**63 - 1), cut=st.integers(1, 7), extra=st.integers(0, 5))
def test_a_row_draws_the_same_however_split_or_padded(seed: int, cut: int, extra: int) -> None:
    whole = normal((8, 3, 4), Rows(seed, 0, 8))
    first = normal((cut, 3, 4 + extra), Rows(seed, 0, 8))
    second = normal((8 - cut, 3 + extra, 4), Rows(seed, cut, 8))
    assert torch.equal(whole[:cut], first[:, :, :4])
    assert torch.equal(whole[cut:], second[:, :3])


def test_draws_of_a_step_differ_and_repeat() -> None:
    rows = Rows(mix_seed(1, 2))
    a, b = normal((64, 4), rows), normal((64, 4), rows)
    again = Rows(mix_seed(1, 2))
    assert torch.equal(a, normal((64, 4), again))
    assert torch.equal(b, normal((64, 4), again))
    other_step = normal((64, 4), Rows(mix_seed(1, 3)))
    for x, y in ((a, b), (a, other_step), (b, other_step), (a[:32], a[32:])):
        assert abs(float((x.flatten() * y.flatten()).mean())) < 5.0 / math.sqrt(x.numel())
        assert not bool((x == y).any())


@pytest.mark.parametrize("generator", [Rows(11), torch.Generator().manual_seed(11)], ids=["rows", "generator"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments(generator: Rows | torch.Generator, dtype: torch.dtype) -> None:
    n, d = 1000, 200
    z = normal((n, d), generator, dtype=dtype)
    assert z.dtype == dtype
    for power, moment, spread in ((1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)):
        assert abs(float((z**power).mean()) - moment) < 5.0 * math.sqrt(spread / (n * d))
    tail = float((z.abs() > 3.0).double().mean())
    assert tail == pytest.approx(math.erfc(3.0 / math.sqrt(2.0)), rel=0.25)
    # Rows, columns and neighbours are uncorrelated.
    for a, b in ((z[1:], z[:-1]), (z[:, 1:], z[:, :-1]), (z[1:, 1:], z[:-1, :-1])):
        assert abs(float((a * b).mean())) < 5.0 / math.sqrt(a.numel())
    assert float(z.mean(0).abs().max()) < 5.5 / math.sqrt(n)
    assert float(z.mean(1).abs().max()) < 5.5 / math.sqrt(d)
    u = uniform((n, d), generator, dtype=dtype)
    counts = torch.histc(u, 50, 0.0, 1.0)
    assert float(((counts - n * d / 50) / math.sqrt(n * d / 50)).abs().max()) < 5.0
    signs = rademacher_like(z, generator)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(signs.mean())) < 5.0 / math.sqrt(n * d)


@pytest.mark.parametrize("seed", [0, 1, mix_seed(3, 4), 2**63 - 1, -5])
def test_a_seed_in_a_tensor_draws_what_the_integer_draws(seed: int) -> None:
    number, tensor = Rows(seed, 2, 8), Rows(torch.tensor(seed, dtype=torch.int64), 2, 8)
    for _ in range(2):  # the count of the draws goes into the key
        for draw in (uniform, normal):
            assert torch.equal(draw((3, 4, 5), number), draw((3, 4, 5), tensor))
        assert torch.equal(stratified(3, number), stratified(3, tensor))
        assert torch.equal(rademacher_like(torch.empty(3, 2), number), rademacher_like(torch.empty(3, 2), tensor))


def test_uniform_keeps_away_from_both_ends() -> None:
    """The largest and the smallest pattern of bits, in float32."""
    from flowkit.random import _unit

    ends = _unit(torch.tensor([0, -1]), torch.float32)
    assert 0.0 < float(ends[0]) < 1e-6
    assert 1.0 - 1e-6 < float(ends[1]) < 1.0


def test_batches_of_steps_are_independent() -> None:
    """The same rows over many steps look like fresh draws."""
    draws = torch.stack([normal((2, 2), Rows(mix_seed(0, step))).flatten() for step in range(1000)])
    correlation = torch.corrcoef(draws.T) - torch.eye(4)
    assert float(correlation.abs().max()) < 5.0 / math.sqrt(1000)
    along = (draws[1:] * draws[:-1]).mean(0)
    assert float(along.abs().max()) < 5.0 / math.sqrt(1000)


def test_five_axes_and_narrow_dtypes() -> None:
    z = normal((2, 3, 4, 5, 6), Rows(4), dtype=torch.bfloat16)
    assert z.dtype == torch.bfloat16
    assert len(normal((2, 3, 4, 5, 6), Rows(4)).unique()) > 0.99 * z.numel()
    assert normal_like(torch.empty(3, dtype=torch.float16), Rows(4)).dtype == torch.float16


def test_stratified_covers_the_global_batch() -> None:
    parts = [stratified(3, Rows(9, first, 12)) for first in (0, 3, 6, 9)]
    t = torch.cat(parts).sort().values
    torch.testing.assert_close(t.diff(), torch.full((11,), 1 / 12), rtol=0.0, atol=1e-6)
    rows = Rows(9, 0, 12)
    assert not torch.equal(stratified(12, rows), stratified(12, rows))


@settings(max_examples=50, deadline=None)
@given(parts=st.lists(st.integers(-(2**63), 2**64), min_size=1, max_size=4))
def test_mixed_seeds_fit_and_depend_on_every_part(parts: list[int]) -> None:
    seed = mix_seed(*parts)
    assert 0 <= seed < 2**63
    for i in range(len(parts)):
        assert mix_seed(*parts[:i], parts[i] + 1, *parts[i + 1 :]) != seed
    if len(parts) > 1 and parts[0] != parts[1]:
        assert mix_seed(parts[1], parts[0], *parts[2:]) != seed
