"""Data sources: what a recipe's ``data:`` line names. A domain's adapters derive from :class:`DataSource`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

Split = Literal["train", "validation", "test"]
#: A raw batch: tensors and lists (texts, names), batch first. Tensors move to the device; the rest stays.
RawBatch = dict[str, Any]


def padded_length(length: int, multiple: int) -> int:
    """``length`` rounded up so that few shapes remain: to a multiple of ``multiple`` in steps that grow to a quarter
    of the power of two below a long length.

    With ``multiple`` 1 (or 0) the length stays.
    """
    if multiple <= 1:
        return length
    quarter = 1 << max(length.bit_length() - 3, 0)
    step = -(-quarter // multiple) * multiple
    return -(-length // step) * step


class Samples(ABC):
    """One split, addressable by index; ``batch`` gathers and pads. Reading is a pure function of the indices."""

    #: ``batch`` pads by :func:`padded_length` to this multiple (the trainer sets it from its ``bucket``): compiled
    #: and captured programs want few shapes.
    pad_multiple: int = 1

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, indices: Sequence[int]) -> RawBatch:
        """Gather the rows ``indices`` into one (padded) raw batch."""

    def lengths(self) -> np.ndarray | None:
        """Length of every sample (for batches of similar length), or None where all are equal."""
        return None

    def groups(self) -> np.ndarray | None:
        """(n,) numbers, equal for samples that are cheap to read at about the same time (of one shard, of one disk);
        None where any order costs the same. Training then mixes the samples of ``window`` groups at a time.
        """
        return None

    #: Groups that are mixed at a time; 0: all.
    window: int = 0
    #: How many samples of training earlier :meth:`expect` is told; 0: never.
    ahead: int = 0

    def about(self) -> Mapping[str, Any]:
        """What else decides the order, by name: a run that goes on tells where it changed."""
        return {}

    def expect(self, indices: Sequence[int]) -> None:
        """Training will soon ask for ``indices``: what takes long can begin. May do nothing; raises nothing."""


class DataSource(ABC):
    """A data set. The constructor stores arguments and opens no files; ``prepare`` builds caches, once, atomically."""

    #: True when the training split holds pairs that a teacher made (see ``flowkit.procedures.pair_data``): training
    #: then starts from the teacher's weights, and only the networks learn.
    pairs: bool = False
    #: Arguments that a model learns to rely on: where a trained model gets data of another class, they are kept.
    fitting: tuple[str, ...] = ()

    @abstractmethod
    def prepare(self) -> None:
        """Fetch, decode and cache; returns at once when that was done. Shows progress. Raises
        ``flowkit.errors.UserError``."""

    @abstractmethod
    def split(self, name: Split) -> Samples:
        """One split of the prepared data."""

    @abstractmethod
    def statistics(self) -> Mapping[str, Any]:
        """What ``flowkit data stats`` prints and tasks normalise with: plain numbers, strings and lists."""

    def loss_split(self) -> Samples:
        """What the validation loss is measured on where the training split holds pairs: pairs that were held out."""
        return self.split("validation")

    def provenance(self) -> Mapping[str, Any]:
        """Where made data come from, for ``summary.json``: plain data; empty for real data."""
        return {}
