"""Pairs as training data: a data source over a pair store, and the batch that a task makes of a raw batch of pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from flowkit.cond import Cond
from flowkit.couplings.coupling import Batch
from flowkit.data import DataSource, RawBatch, Samples, Split
from flowkit.errors import UserError
from flowkit.procedures.pair_store import PairStore

_PAIR, _COND, _NULL = "pair_", "pair_cond/", "pair_null/"


def is_pairs(raw: RawBatch) -> bool:
    """True when a raw batch holds pairs instead of a task's own data."""
    return f"{_PAIR}x1" in raw


def pair_batch(raw: RawBatch) -> Batch:
    """The batch of a raw batch of pairs: x1, x0, the encoded condition with padding and nulls, the weight."""
    cond = Cond(
        {name.removeprefix(_COND): value for name, value in raw.items() if name.startswith(_COND)},
        padding=raw.get(f"{_PAIR}padding"),
        nulls={name.removeprefix(_NULL): value for name, value in raw.items() if name.startswith(_NULL)},
    )
    return Batch(x1=raw[f"{_PAIR}x1"], x0=raw[f"{_PAIR}x0"], cond=cond, weight=raw.get(f"{_PAIR}weight"))


class PairSamples(Samples):
    """Pairs ``first .. last`` of a store; padded shapes are those that the pairs were made with."""

    def __init__(self, store: PairStore, first: int, last: int) -> None:
        self.store, self.first, self.last = store, first, last
        self._nulls = {f"{_NULL}{name}": torch.as_tensor(value) for name, value in store.nulls.items()}

    def __len__(self) -> int:
        return self.last - self.first

    def batch(self, indices: Sequence[int]) -> RawBatch:
        """Gather rows; see :func:`pair_batch` for their names."""
        tensors = self.store.batch([self.first + int(index) for index in indices])
        return {**{f"{_PAIR}{name}": tensor for name, tensor in tensors.items()}, **self._nulls}

    def lengths(self) -> np.ndarray | None:
        """Unpadded elements of each pair, or None where nothing is padded."""
        lengths = self.store.lengths()
        return None if lengths is None else lengths[self.first : self.last]


class PairData(DataSource):
    """Train on the pairs of a store; judge on the real data that they were made for.

    Args:
        store: folder of the pairs.
        data: the real data: their validation and test splits, their statistics.
        held_out: pairs kept for the validation loss, at most a tenth of them: the last ones.
        teacher: hash of the weights that must have made the pairs; "" takes any.
    """

    #: See :class:`flowkit.data.DataSource`.
    pairs = True

    def __init__(self, store: str, data: DataSource, *, held_out: int = 2000, teacher: str = "") -> None:
        if held_out < 0:
            raise UserError(f"PairData: held_out must not be negative, got {held_out}")
        self.store, self.data, self.held_out, self.teacher = store, data, held_out, teacher
        self._opened: PairStore | None = None

    def _open(self) -> PairStore:
        if self._opened is None:
            self._opened = PairStore(self.store, teacher=self.teacher)
        return self._opened

    def _cut(self) -> int:
        size = len(self._open())
        return size - min(self.held_out, size // 10)

    def prepare(self) -> None:
        """Prepare the real data. The pairs are there, or ``flowkit reflow`` makes them."""
        self.data.prepare()

    def split(self, name: Split) -> Samples:
        """Pairs to train on; real data to judge by.

        Raises:
            UserError: the store is not whole; see :class:`flowkit.procedures.pair_store.PairStore`.
        """
        return PairSamples(self._open(), 0, self._cut()) if name == "train" else self.data.split(name)

    def loss_split(self) -> Samples:
        """The pairs held out; of a store too small for that, those that are trained on."""
        size = len(self._open())
        return PairSamples(self._open(), self._cut() % size, size)

    def statistics(self) -> Mapping[str, Any]:
        """Those of the real data."""
        return self.data.statistics()

    def provenance(self) -> Mapping[str, Any]:
        """Where the pairs come from, and how many there are."""
        manifest = self._open().manifest
        return {"pairs": manifest["pairs"], "nfe": manifest["nfe"], **manifest["provenance"]}
