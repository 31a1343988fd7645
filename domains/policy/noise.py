"""Random draws of plans, each row from a seed of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowkit.random import Rows, mix_seed

#: Tells the noise of the start from the numbered draws that follow.
_START = -1


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


def standard_noise(seeds: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Standard normal (rows, *shape) on the CPU, row i a function of ``seeds[i]`` alone.

    What a plan starts from in nearly all cases: torch's own normal draws, for small chunks several times as fast as
    those that :class:`PlanNoise` makes of bits.
    """
    noise, generator = torch.empty((len(seeds), *shape)), torch.Generator()
    for row, seed in zip(noise.unbind(), seeds, strict=True):
        row.normal_(generator=generator.manual_seed(mix_seed(seed, _START)))
    return noise
