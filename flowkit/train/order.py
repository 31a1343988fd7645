"""Orders that stay near: samples of a few groups (shards) at a time, all samples once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Nearby:
    """A permutation in which groups come one after the other, in random order, and about ``window`` of them mix.

    Each group's place among the groups is drawn, and each sample is put off by up to ``window`` places: so a new group
    begins for each that ends, and none is ever needed all at once.

    Args:
        groups: (n,) number of each sample's group.
        window: groups that mix at a time, at least 1.
    """

    def __init__(self, groups: np.ndarray, window: int) -> None:
        names, places = np.unique(groups, return_inverse=True)
        self.count, self.window = len(names), window
        self._groups = torch.from_numpy(places.reshape(-1))

    def of(self, samples: Tensor) -> Nearby:
        """The same groups, of these samples alone, numbered anew from 0."""
        return Nearby(self._groups[samples].numpy(), self.window)

    @property
    def reach(self) -> float:
        """How many samples a quarter of the window holds: so far may sorting by length, and shuffling batches, move."""
        return len(self._groups) * self.window / (4 * self.count)

    @property
    def matters(self) -> bool:
        """Whether there are more groups than are mixed; else every permutation is near enough."""
        return 0 < self.window < self.count

    def samples(self, generator: torch.Generator) -> Tensor:
        """A permutation (n,) of the samples."""
        place = torch.randperm(self.count, generator=generator)[self._groups].to(torch.float64)
        delay = torch.rand(len(place), generator=generator, dtype=torch.float64)
        return torch.argsort(place + self.window * delay, stable=True)

    def batches(self, count: int, batch: int, generator: torch.Generator) -> Tensor:
        """A permutation (count,) of batches of ``batch`` samples that lie in the order of the samples."""
        delay = torch.rand(count, generator=generator, dtype=torch.float64)
        return torch.argsort(torch.arange(count) + delay * (self.reach / batch), stable=True)
