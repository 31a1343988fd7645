"""Random draws of plans, each row from a seed of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowkit.random import Rows, mix_seed


class PlanNoise(Rows):
    """Draws whose row i is a function of ``seeds[i]`` alone: the same plan alone, in a batch and on any device.

    The bits come from torch's CPU generator, one seeding a row and draw, which for few rows costs less than hashing.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        super().__init__(0, total=len(seeds))
        self.seeds = tuple(seeds)
        self._generator = torch.Generator()

    def bits(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """See :class:`Rows`; the batch must have a row for every seed."""
        if shape[0] != len(self.seeds):
            raise ValueError(f"{shape[0]} rows are drawn, {len(self.seeds)} have a seed")
        bits = torch.empty(shape, dtype=torch.int64)
        for row, seed in zip(bits.unbind(), self.seeds, strict=True):
            row.random_(generator=self._generator.manual_seed(mix_seed(seed, self.draws)))
        self.draws += 1
        return bits.to(device)
