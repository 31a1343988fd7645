"""The order of the data: a function of (seed, epoch), the same on any number of processes, resumable anywhere."""

from __future__ import annotations

import threading
import time
from functools import partial
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_training import ToySamples

from flowkit.errors import UserError
from flowkit.train.loader import Loader, Order, Share, sweep
from flowkit.train.prefetch import ordered


def numbers(share: Share) -> list[int]:
    return [i for part in share.parts for i in part.indices]


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 200), batch=st.integers(1, 24), seed=st.integers(0, 9), epoch=st.integers(0, 5),
    multiple=st.sampled_from([0, 1, 8]),
)  # fmt: skip
def test_an_epoch_holds_every_sample_at_most_once_and_drops_less_than_a_batch(
    size: int, batch: int, seed: int, epoch: int, multiple: int
) -> None:
    lengths = torch.randint(1, 50, (size,), generator=torch.Generator().manual_seed(0)).numpy()
    order = Order(size, batch, seed, lengths, multiple)
    rows = torch.cat([order(epoch, i) for i in range(order.batches)])
    counts = torch.bincount(rows, minlength=size)
    assert len(rows) == order.batches * batch
    if size >= batch:
        assert counts.max() == 1
        assert size - len(rows) < batch
    else:
        assert order.batches == 1
        assert counts.max() - counts.min() <= 1


def test_epochs_differ_and_seeds_differ_and_both_repeat() -> None:
    orders = {(s, e): Order(100, 100, s)(e, 0).tolist() for s in range(2) for e in range(3)}
    assert len({tuple(rows) for rows in orders.values()}) == 6
    assert orders[1, 2] == Order(100, 100, 1)(2, 0).tolist()


@pytest.mark.parametrize("bucket", [0, 8])
def test_ranks_and_accumulation_cut_the_same_global_batches(bucket: int) -> None:
    samples = ToySamples(90, 0, lengths=True)
    alone = [numbers(s) for s in islice(Loader(samples, batch=12, seed=3, bucket=bucket), 16)]
    for world, accumulate in ((3, 1), (1, 3), (2, 2), (3, 4)):
        loaders = [
            Loader(
                samples, batch=12 // world // accumulate, seed=3, rank=rank, world=world, accumulate=accumulate,
                bucket=bucket, threads=rank,
            )
            for rank in range(world)
        ]  # fmt: skip
        for expected, *shares in zip(alone, *loaders, strict=False):
            assert [i for share in shares for i in numbers(share)] == expected
            rows = [r for s in shares for p in s.parts for r in range(p.first, p.first + len(p.indices))]
            assert rows == list(range(12))
            assert all(part.total == 12 for share in shares for part in share.parts)


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_the_position_is_restored_in_the_middle_of_an_epoch(threads: int) -> None:
    samples = ToySamples(50, 0, lengths=True)
    make = partial(Loader, samples, batch=8, seed=1, bucket=4, threads=threads)
    whole = [numbers(s) for s in islice(make(), 20)]
    for done in (0, 1, 5, 6, 7, 13):
        before, after = make(), make()
        for _ in islice(before, done):
            pass
        after.restore(before.state())
        assert [numbers(s) for s in islice(after, 20 - done)] == whole[done:]
        assert [numbers(before.share(*before.locate(ago))) for ago in range(done, 0, -1)] == whole[:done]


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 120), seed=st.integers(0, 5),
    runs=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 3), st.integers(1, 2), st.sampled_from([0, 8]),
                            st.integers(0, 9)), min_size=2, max_size=5),
)  # fmt: skip
def test_an_epoch_is_read_once_however_often_the_global_batch_changes(
    size: int, seed: int, runs: list[tuple[int, int, int, int, int]]
) -> None:
    """Each run has its batch, processes, accumulation and bucket, does some steps and is stopped; the last goes on."""
    samples = ToySamples(size, 0, lengths=True)
    read: dict[int, list[int]] = {}
    state, largest = None, 0
    for number, (batch, world, accumulate, bucket, steps) in enumerate(runs):
        loaders = [
            Loader(
                samples, batch=batch, seed=seed, rank=r, world=world, accumulate=accumulate, bucket=bucket, threads=0
            )
            for r in range(world)
        ]
        total = batch * world * accumulate
        largest = max(largest, total)
        for loader in loaders:
            if state is not None:
                loader.restore(state)
        steps = 3 * (size // total + 1) if number + 1 == len(runs) else steps
        for shares in islice(zip(*loaders, strict=True), steps):
            assert len({(share.epoch, share.index) for share in shares}) == 1
            assert [share.parts[0].raw["number"].tolist() for share in shares] == [
                list(share.parts[0].indices) for share in shares
            ]
            read.setdefault(shares[0].epoch, []).extend(i for share in shares for i in numbers(share))
        states = [loader.state() for loader in loaders]
        assert all(other == states[0] for other in states)
        state = states[0]
        again = Loader(samples, batch=total, seed=seed, bucket=bucket, threads=0)
        again.restore(state)
        assert (again.epoch, again.index) == (loaders[0].epoch, loaders[0].index), "equal settings go on at once"
    assert state is not None
    for epoch, rows in read.items():
        counts = torch.bincount(torch.tensor(rows), minlength=size)
        if largest <= size:
            assert counts.max() == 1, "nothing twice"
            if epoch < state["epoch"]:
                assert counts.sum() > size - largest, "an epoch drops less than a batch"


def test_a_regrouped_epoch_goes_on_bit_for_bit_and_is_located() -> None:
    samples = ToySamples(70, 0, lengths=True)
    first = Loader(samples, batch=8, seed=1, bucket=8, threads=0)
    before = [i for share in islice(first, 5) for i in numbers(share)]
    make = partial(Loader, samples, batch=6, seed=1, bucket=8, threads=0)
    whole = make()
    whole.restore(first.state())
    rest = [numbers(share) for share in islice(whole, 12)]
    assert sorted(before + [i for rows in rest[:5] for i in rows]) == sorted(
        {*before, *(i for r in rest[:5] for i in r)}
    )
    assert [numbers(whole.share(*whole.locate(ago))) for ago in range(12, 0, -1)] == rest
    for done in (1, 4, 5, 7):
        stopped, after = make(), make()
        stopped.restore(first.state())
        for _ in islice(stopped, done):
            pass
        after.restore(stopped.state())
        assert [numbers(share) for share in islice(after, 12 - done)] == rest[done:]
    # The position of a run that counted samples, before batches of another size were grouped anew.
    old = make()
    old.restore({"epoch": 2, "samples": 12, "global_batch": 6})
    assert (old.epoch, old.index) == (2, 2)
    grown = Loader(ToySamples(140, 0), batch=10, seed=1)
    grown.restore({**first.state(), "bucket": 0})
    assert (grown.epoch, grown.index) == (0, 8), "of other data about as much is taken as read"


def test_buckets_save_padding_and_still_mix() -> None:
    samples = ToySamples(4096, 0, lengths=True)
    lengths = torch.as_tensor(samples.lengths())

    def padding(bucket: int) -> float:
        loader = Loader(samples, batch=16, seed=0, bucket=bucket, threads=0)
        sizes = [lengths[numbers(s)] for s in islice(loader, loader.order.batches)]
        return float(1 - sum(s.sum() for s in sizes) / sum(s.max() * len(s) for s in sizes))

    assert padding(8) < 0.15 < 0.4 < padding(0)
    assert samples.pad_multiple == 8
    loader = Loader(samples, batch=16, seed=0, bucket=8, threads=0)
    means = torch.stack([lengths[numbers(s)].float().mean() for s in islice(loader, 256)])
    assert abs(torch.corrcoef(torch.stack([means, torch.arange(256.0)]))[0, 1]) < 0.3, "short ones do not come first"
    companions = [set(numbers(s)) for s in islice(loader, 512) if 17 in numbers(s)]
    assert len(companions) == 2
    assert len(companions[0] & companions[1]) < 8


def test_blurred_buckets_hold_every_sample_once_an_epoch_and_lengths_that_are_alike() -> None:
    size, batch = 2048, 16
    lengths = torch.randint(8, 800, (size,), generator=torch.Generator().manual_seed(0))

    def spread(order: Order, epoch: int) -> torch.Tensor:
        rows = torch.stack([order(epoch, i) for i in range(order.batches)])
        assert rows.flatten().sort().values.tolist() == list(range(size))
        return lengths[rows].amax(1) / lengths[rows].amin(1)

    alike, any_length = Order(size, batch, 0, lengths.numpy(), 8), Order(size, batch, 0)
    for epoch in range(3):
        # The blur is +-15 %: two lengths that meet differ by 1.15 / 0.85 and what lies between neighbours.
        assert spread(alike, epoch).median() < 1.5 < 5 < spread(any_length, epoch).median()
    partners = [{frozenset(alike(epoch, i).tolist()) for i in range(alike.batches)} for epoch in range(2)]
    assert not partners[0] & partners[1], "the same ones never meet twice"


def test_the_same_batch_again_and_again() -> None:
    loader = Loader(ToySamples(50, 0), batch=8, seed=1, repeat=True)
    assert len({tuple(numbers(s)) for s in islice(loader, 12)}) == 1


def test_an_empty_split_is_a_clear_error() -> None:
    with pytest.raises(UserError, match="training split is empty"):
        Loader(ToySamples(0, 0), batch=8, seed=1)


@pytest.mark.parametrize(("world", "bucket"), [(1, 0), (2, 0), (3, 8)])
def test_a_sweep_reads_every_sample_once_the_last_batch_kept(world: int, bucket: int) -> None:
    samples = ToySamples(50, 0, lengths=True)
    parts = [p for r in range(world) for p in sweep(samples, batch=8, rank=r, world=world, bucket=bucket)]
    assert sorted(i for p in parts for i in p.indices) == list(range(50))
    assert sorted(len(p.indices) for p in parts) == [2] + [8] * 6
    assert sorted(p.first for p in parts) == list(range(0, 50, 8))
    assert sum(len(p.indices) for p in sweep(samples, batch=8, limit=2, bucket=bucket)) == 16


def test_threads_keep_the_order_and_hand_errors_over_at_their_turn() -> None:
    def job(number: int) -> int:
        time.sleep(0.002 * (5 - number % 5))
        if number == 7:
            raise ValueError("seven")
        return number

    results = ordered((partial(job, n) for n in range(20)), threads=4, ahead=6)
    assert list(islice(results, 7)) == list(range(7))
    with pytest.raises(ValueError, match="seven"):
        next(results)


def test_closing_ends_the_threads() -> None:
    loader = Loader(ToySamples(50, 0), batch=8, seed=1, threads=2)
    shares = iter(loader)
    next(shares)
    shares.close()  # pyright: ignore[reportAttributeAccessIssue]
    until = time.monotonic() + 20
    while [t for t in threading.enumerate() if t.name.startswith("flowkit-loader")]:
        assert time.monotonic() < until
        time.sleep(0.02)
