"""Batches in an order that is a function of (seed, epoch), so that training can stop and go on at any step.

The order is decided for the *global* batch of G = batch x processes x accumulate samples; a process then takes its
contiguous rows. So one process with batch 2 B, two processes with B, and B accumulated twice all see the same global
batches, length buckets included, and :class:`flowkit.random.Rows` gives each row the same draws.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowkit.data import RawBatch, Samples
from flowkit.errors import UserError
from flowkit.random import mix_seed
from flowkit.train.order import Nearby
from flowkit.train.prefetch import ordered

#: Global batches whose samples are sorted by length together: more saves padding, fewer mixes better.
_POOL = 64
#: How far, as a share, a sample's length is blurred before sorting.
_BLUR = 0.3


class Taken(NamedTuple):
    """The first part of an epoch, read by a run of another global batch."""

    #: Samples of its global batch.
    batch: int
    #: Multiple to which it rounded lengths, 0 where it ignored them.
    multiple: int
    #: Global batches read.
    batches: int


class Order:
    """Which samples make each global batch of each epoch: every sample once, the last incomplete batch dropped.

    A data set smaller than a batch is repeated, each time in another order, until one batch is full.

    Args:
        size: number of samples.
        batch: samples of a global batch.
        seed: of the whole training.
        lengths: length of each sample; given together with ``multiple``, batches hold samples of similar length.
        multiple: lengths are compared after rounding up to a multiple of this; 0: batches ignore lengths.
        begun: an epoch that runs of other global batches have begun, and what they took of it, in turn: what they left
            is grouped anew.
        near: which samples are cheap to read together; their order then stays near. None: any order.
    """

    def __init__(
        self, size: int, batch: int, seed: int, lengths: np.ndarray | None = None, multiple: int = 0,
        begun: tuple[int, Sequence[Taken]] | None = None, near: Nearby | None = None,
    ) -> None:  # fmt: skip
        if size < 1:
            raise UserError("the training split is empty: check the data line of the recipe")
        self.size, self.batch, self.seed, self.multiple = size, batch, seed, multiple
        self.near = near if near is not None and near.matters else None
        self.batches = max(size // batch, 1)
        self._lengths = None if lengths is None else np.asarray(lengths, dtype=np.int64)
        self.begun, self._taken = (-1, ()) if begun is None else begun
        self._arranged: dict[int, Tensor] = {}
        self._lock = threading.Lock()

    def count(self, epoch: int) -> int:
        """Global batches of ``epoch``: of one that was begun, those that are left (perhaps none)."""
        if epoch != self.begun:
            return self.batches
        return max(self.size - sum(taken.batch * taken.batches for taken in self._taken), 0) // self.batch

    def __call__(self, epoch: int, index: int) -> Tensor:
        """Sample numbers (batch,) of global batch ``index`` of ``epoch``."""
        with self._lock:
            if epoch not in self._arranged:
                # Two epochs stay: reading ahead crosses from one into the next.
                self._arranged = {e: rows for e, rows in self._arranged.items() if e == epoch - 1}
                self._arranged[epoch] = self._arrange(epoch)
            return self._arranged[epoch][index]

    def _generator(self, *parts: int) -> torch.Generator:
        return torch.Generator().manual_seed(mix_seed(self.seed, *parts))

    def _arrange(self, epoch: int) -> Tensor:
        """(batches, batch): the samples of ``epoch``."""
        if epoch != self.begun:
            rounds = -(-self.batch // self.size)
            order = torch.cat([self._shuffled(epoch, number) for number in range(rounds)])
            return self._grouped(order, self.batch, self.multiple, epoch, rounds)
        left = self._shuffled(epoch, 0)
        for turn, taken in enumerate(self._taken):
            read = self._grouped(left, taken.batch, taken.multiple, epoch, 1, turn)[: taken.batches].flatten()
            still = torch.ones(self.size, dtype=torch.bool)
            still[read] = False
            left = left[still[left]]
        return self._grouped(left, self.batch, self.multiple, epoch, 1, len(self._taken))

    def _shuffled(self, epoch: int, number: int) -> Tensor:
        generator = self._generator(epoch, number)
        return torch.randperm(self.size, generator=generator) if self.near is None else self.near.samples(generator)

    def _grouped(self, order: Tensor, batch: int, multiple: int, epoch: int, rounds: int, turn: int = 0) -> Tensor:
        """Cut ``order`` into batches; where lengths count, of similar ones."""
        batches, later = len(order) // batch, (turn,) if turn else ()
        # What the epoch drops is random, not the longest: cut first, sort then.
        order = order[: batches * batch]
        if multiple < 1 or self._lengths is None:
            return order.reshape(batches, batch)
        bins = torch.from_numpy(-(-self._lengths // multiple))
        # Blurred lengths: similar ones meet, but not the same ones every time.
        blur = 1.0 + _BLUR * (
            torch.rand(len(order), generator=self._generator(epoch, rounds, 2, *later), dtype=torch.float64) - 0.5
        )
        keys = bins[order] * blur
        pool = batch * (_POOL if self.near is None else min(max(int(self.near.reach // batch), 1), _POOL))
        pools = zip(order.split(pool), keys.split(pool), strict=True)
        pooled = torch.cat([part[torch.argsort(key, stable=True)] for part, key in pools])
        generator = self._generator(epoch, rounds, 1, *later)
        shuffled = torch.randperm(batches, generator=generator)
        if self.near is not None:
            shuffled = self.near.batches(batches, batch, generator)
        return pooled.reshape(batches, batch)[shuffled]


@dataclass(frozen=True)
class Part:
    """A micro-batch: rows ``first .. first + len(indices)`` of a global batch of ``total`` rows."""

    raw: RawBatch
    indices: Sequence[int]
    first: int
    total: int


@dataclass(frozen=True)
class Share:
    """What one process takes from a global batch: one part per accumulation."""

    epoch: int
    index: int
    parts: tuple[Part, ...]


def pin(raw: RawBatch) -> RawBatch:
    """Tensors in page-locked memory, from which they move to a GPU while it computes; those that are there stay."""
    return {
        name: value.pin_memory() if isinstance(value, Tensor) and value.device.type == "cpu" else value
        for name, value in raw.items()
    }


class Loader:
    """Endless shares of global batches from a position that is saved and restored.

    Args:
        samples: what to read; its ``batch`` is a pure function of the indices.
        batch: samples of a micro-batch of one process.
        seed: of the training; the order is a function of it and the epoch.
        rank, world: this process and how many there are.
        accumulate: micro-batches of one optimiser step.
        bucket: 0, or the multiple to which lengths are padded: batches then hold samples of similar length.
        threads: threads that read ahead; 0 reads when asked.
        pinned: hand over page-locked tensors (for a GPU).
        repeat: always the first batch (to overfit it).
        order: makes the order of the data from the arguments of :class:`Order`.
    """

    def __init__(
        self, samples: Samples, *, batch: int, seed: int, rank: int = 0, world: int = 1, accumulate: int = 1,
        bucket: int = 0, threads: int = 1, pinned: bool = False, repeat: bool = False,
        order: Callable[..., Order] = Order,
    ) -> None:  # fmt: skip
        self._make_order = order
        self.samples, self.batch, self.rank, self.accumulate = samples, batch, rank, accumulate
        self.total = batch * world * accumulate
        if bucket > 0:
            samples.pad_multiple = bucket
        self.seed, self.bucket = seed, bucket
        self.threads, self.pinned, self.repeat = threads, pinned, repeat
        self.epoch, self.index, self.seen = 0, 0, 0
        self._taken: list[Taken] = []
        groups = samples.groups() if samples.window > 0 else None
        self._near = None if groups is None else Nearby(groups, samples.window)
        self._ahead = 0 if repeat else -(-samples.ahead // self.total)
        self.order = self._order()

    def _order(self) -> Order:
        lengths = self.samples.lengths() if self.bucket > 0 or any(taken.multiple for taken in self._taken) else None
        begun = (self.epoch, self._taken) if self._taken else None
        return self._make_order(len(self.samples), self.total, self.seed, lengths, self.bucket, begun, self._near)

    def share(self, epoch: int, index: int) -> Share:
        """This process's rows of one global batch, whatever the position."""
        if self.repeat:
            epoch, index = 0, 0
        rows = self.order(epoch, index)
        if self._ahead:
            self._announce(epoch, index + self._ahead)
        parts = []
        for micro in range(self.accumulate):
            first = (self.rank * self.accumulate + micro) * self.batch
            indices = rows[first : first + self.batch].tolist()
            raw = self.samples.batch(indices)
            parts.append(Part(pin(raw) if self.pinned else raw, indices, first, self.total))
        return Share(epoch, index, tuple(parts))

    def _announce(self, epoch: int, index: int) -> None:
        """Tell the samples what will be asked of them."""
        if index >= self.order.count(epoch):
            epoch, index = epoch + 1, index - self.order.count(epoch)
        rows = self.order(epoch, min(index, self.order.count(epoch) - 1))
        per_process = self.batch * self.accumulate
        self.samples.expect(rows[self.rank * per_process : (self.rank + 1) * per_process].tolist())

    def _next(self, epoch: int, index: int) -> tuple[int, int]:
        return (epoch, index + 1) if index + 1 < self.order.count(epoch) else (epoch + 1, 0)

    def locate(self, ago: int) -> tuple[int, int]:
        """(epoch, index) of the batch handed over ``ago`` batches ago; 1 is the latest."""
        epoch, index = self.epoch, self.index
        while ago > index:
            ago -= index
            epoch -= 1
            index = self.order.count(epoch)
        return epoch, index - ago

    def _jobs(self) -> Iterator[Callable[[], Share]]:
        epoch, index = self.epoch, self.index
        while True:
            yield partial(self.share, epoch, index)
            epoch, index = self._next(epoch, index)

    def __iter__(self) -> Generator[Share, None, None]:
        """Shares from the position on; the position counts what was handed over, not what was read ahead."""
        for share in ordered(self._jobs(), threads=self.threads, ahead=2 * self.threads):
            self.epoch, self.index = self._next(self.epoch, self.index)
            self.seen += self.total
            yield share

    def state(self) -> dict[str, Any]:
        """The position, for :meth:`restore`: epoch, what runs of other global batches took of it, and batches since."""
        taken = [list(part) for part in self._taken] if self.order.begun == self.epoch else []
        return {
            "epoch": self.epoch, "index": self.index, "taken": taken, "global_batch": self.total,
            "bucket": self.bucket, "size": len(self.samples), "seen": self.seen,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any], *, seen: int = 0) -> None:
        """Go on where :meth:`state` was taken: with the same global batch by the very next batch; with another by
        grouping anew what the epoch still holds, so that it reads every sample once. Of data that grew or shrank the
        epoch goes on at about the same share. ``seen`` counts samples where the state does not.
        """
        self.epoch, batch = int(state["epoch"]), int(state["global_batch"])
        # Runs before this field existed counted samples.
        self.index = int(state["index"]) if "index" in state else int(state["samples"]) // batch
        bucket, size = int(state.get("bucket", self.bucket)), int(state.get("size", len(self.samples)))
        self.seen = int(state.get("seen", seen))
        self._taken = [Taken(*map(int, part)) for part in state.get("taken", ())]
        if size != len(self.samples):
            read = sum(taken.batch * taken.batches for taken in self._taken) + self.index * batch
            self._taken, self.index = [], read * len(self.samples) // size // self.total
        elif (batch, bucket) != (self.total, self.bucket) and self.index:
            self._taken.append(Taken(batch, bucket, self.index))
            self.index = 0
        self.order = self._order()
        if self.index >= self.order.count(self.epoch):
            self.epoch, self.index, self._taken = self.epoch + 1, 0, []
            self.order = self._order()


def sweep(
    samples: Samples, *, batch: int, rank: int = 0, world: int = 1, bucket: int = 0, limit: int = 0, threads: int = 1
) -> Iterator[Part]:
    """Each sample once, for evaluation: short ones first where lengths are known, the last batch perhaps smaller.

    Every ``world``-th batch is this process's. ``limit`` is the number of batches over all processes, 0 for all.
    """
    lengths = samples.lengths() if bucket > 0 else None
    rows = np.arange(len(samples)) if lengths is None else np.argsort(np.asarray(lengths), kind="stable")
    if limit > 0 and lengths is not None:
        # A part of the split must not be its shortest part: thin it out evenly.
        rows = rows[np.linspace(0, len(rows) - 1, min(limit * batch, len(rows))).astype(np.int64)]
    elif limit > 0:
        rows = rows[: limit * batch]

    def read(first: int) -> Part:
        indices = rows[first : first + batch].tolist()
        return Part(samples.batch(indices), indices, first, len(rows))

    starts = range(rank * batch, len(rows), world * batch)
    return ordered((partial(read, first) for first in starts), threads=threads, ahead=2 * threads)
