"""The order over shards: every sample once, near, the same on any number of processes, resumable anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowkit.data import RawBatch, Samples
from flowkit.train.loader import Loader, Order, Share
from flowkit.train.order import Nearby


class Grouped(Samples):
    """Samples of ``shards`` shards; remembers what was announced."""

    def __init__(self, count: int, shards: int, window: int, ahead: int = 0) -> None:
        self.count, self.shards, self.window, self.ahead = count, shards, window, ahead
        self.announced: list[int] = []

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Sequence[int]) -> RawBatch:
        return {"number": torch.as_tensor(indices)}

    def lengths(self) -> np.ndarray:
        return np.random.default_rng(0).integers(1, 60, self.count)

    def groups(self) -> np.ndarray:
        return np.arange(self.count) * self.shards // self.count

    def expect(self, indices: Sequence[int]) -> None:
        self.announced += indices


def numbers(share: Share) -> list[int]:
    return [i for part in share.parts for i in part.indices]


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 300), batch=st.integers(1, 24), shards=st.integers(1, 30), window=st.integers(1, 8),
    multiple=st.sampled_from([0, 8]), epoch=st.integers(0, 3),
)  # fmt: skip
def test_an_epoch_holds_every_sample_at_most_once(
    size: int, batch: int, shards: int, window: int, multiple: int, epoch: int
) -> None:
    samples = Grouped(size, shards, window)
    order = Order(size, batch, 3, samples.lengths(), multiple, near=Nearby(samples.groups(), window))
    counts = torch.bincount(
        order(epoch, 0) if order.batches == 1 else torch.cat([order(epoch, i) for i in range(order.batches)])
    )
    if size >= batch:
        assert counts.max() == 1
        assert size - int(counts.sum()) < batch
    else:
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("bucket", [0, 8])
def test_few_shards_are_in_use_at_a_time_and_all_are_mixed(bucket: int) -> None:
    size, shards, window = 40_000, 100, 6
    samples = Grouped(size, shards, window)
    order = Order(size, 16, 0, samples.lengths(), bucket, near=Nearby(samples.groups(), window))
    groups = torch.from_numpy(samples.groups())
    used = [groups[order(0, i)] for i in range(order.batches)]
    first = {int(g): i for i, batch in reversed(list(enumerate(used))) for g in batch}
    last = {int(g): i for i, batch in enumerate(used) for g in batch}
    in_use = [sum(first[g] <= i <= last[g] for g in range(shards)) for i in range(order.batches)]
    # What is read ahead, pooled by length and shuffled reaches somewhat further than the window.
    assert max(in_use) <= 1.5 * window + 2
    middle = used[len(used) // 4 : -len(used) // 4]
    assert np.mean([len(batch.unique()) for batch in middle]) > 0.6 * min(window, 16)
    # Another epoch, other shards first, other company.
    assert order(0, 0).tolist() != order(1, 0).tolist()


@pytest.mark.parametrize("window", [0, 5, 9])
def test_where_all_shards_are_mixed_the_order_is_that_of_data_in_memory(window: int) -> None:
    samples = Grouped(100, 5, window)
    plain = Grouped(100, 1, 0)
    for bucket in (0, 8):
        ours, theirs = (Loader(s, batch=8, seed=1, bucket=bucket, threads=0) for s in (samples, plain))
        for a, b in islice(zip(ours, theirs, strict=False), 30):
            assert numbers(a) == numbers(b)


@pytest.mark.parametrize("bucket", [0, 8])
def test_ranks_and_accumulation_cut_the_same_global_batches(bucket: int) -> None:
    samples = Grouped(90, 12, 3)
    alone = [numbers(s) for s in islice(Loader(samples, batch=12, seed=3, bucket=bucket), 16)]
    for world, accumulate in ((3, 1), (2, 2)):
        loaders = [
            Loader(
                samples, batch=12 // world // accumulate, seed=3, rank=rank, world=world, accumulate=accumulate,
                bucket=bucket,
            )
            for rank in range(world)
        ]  # fmt: skip
        for expected, *shares in zip(alone, *loaders, strict=False):
            assert [i for share in shares for i in numbers(share)] == expected


def test_the_position_is_restored_in_the_middle_of_an_epoch_also_with_another_batch() -> None:
    samples = Grouped(50, 10, 2)
    make = partial(Loader, samples, seed=1, bucket=4, threads=2)
    whole = [numbers(s) for s in islice(make(batch=8), 20)]
    for done in (0, 1, 5, 6, 7, 13):
        before, after = make(batch=8), make(batch=8)
        for _ in islice(before, done):
            pass
        after.restore(before.state())
        assert [numbers(s) for s in islice(after, 20 - done)] == whole[done:]
    before, after = make(batch=8), make(batch=4)
    read = [i for s in islice(before, 3) for i in numbers(s)]
    after.restore(before.state())
    read += [i for s in islice(after, 6) for i in numbers(s)]
    assert len(set(read)) == len(read) == 48


def test_what_comes_is_announced_before_it_is_read() -> None:
    samples = Grouped(96, 12, 3, ahead=24)
    loader = Loader(samples, batch=4, seed=0, rank=1, world=2, threads=0)
    shares = [numbers(s) for s in islice(loader, 20)]  # over the end of the first epoch
    announced = [samples.announced[i : i + 4] for i in range(0, len(samples.announced), 4)]
    assert announced[: 20 - 3] == shares[3:]
