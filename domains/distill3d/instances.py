"""What is optimised, by number: the data of a method that has none but a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from flowkit.data import DataSource, RawBatch, Samples, Split
from flowkit.errors import UserError


class InstanceSamples(Samples):
    """The numbers 0 .. count - 1."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Sequence[int]) -> RawBatch:
        """``instance`` (b,) int64."""
        return {"instance": torch.as_tensor(indices, dtype=torch.long)}


class Instances(DataSource):
    """``count`` instances, each optimised on its own and all at once; every split is all of them.

    Args:
        count: how many.
    """

    def __init__(self, *, count: int = 4000) -> None:
        if count < 1:
            raise UserError(f"data.init_args.count is {count}: at least one instance is optimised")
        self.count = count

    def prepare(self) -> None:
        """Nothing to fetch."""

    def split(self, name: Split) -> Samples:
        """All instances."""
        return InstanceSamples(self.count)

    def statistics(self) -> Mapping[str, Any]:
        """``instances``."""
        return {"instances": self.count}
