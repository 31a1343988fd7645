"""Exponential moving average of the weights: what users sample.

average <- average + (1 - d_n)(weight - average), d_n = min(decay, (1 + n) / (10 + n)) at update n from 0: the warm-up
keeps the first, random weights from lingering.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import (
    Tensor,
    _foreach_copy_,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_lerp_,  # pyright: ignore[reportPrivateImportUsage]
    nn,
)

from flowkit.train.sharding import cut, local


class EMA:
    """Averages of named parameters, each on its parameter's device; of sharded ones each process keeps its part.

    Args:
        parameters: name -> parameter; those that learn (buffers are used as they are).
        decay: limit of the decay per update, in (0, 1).
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._parameters = dict(parameters)
        self._averages = [weight.detach().clone() for weight in self._weights]

    @property
    def _weights(self) -> list[Tensor]:
        return [local(parameter.detach()) for parameter in self._parameters.values()]

    @property
    def current_decay(self) -> float:
        """The decay of the next update, warm-up included."""
        return min(self.decay, (1 + self.updates) / (10 + self.updates))

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages towards the weights, once per optimiser step."""
        _foreach_lerp_(self._averages, self._weights, 1.0 - self.current_decay)
        self.updates += 1

    @torch.no_grad()
    def copy_to_weights(self) -> None:
        """Overwrite the weights by their averages."""
        _foreach_copy_(self._weights, self._averages)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the module computes with the averages; afterwards the weights are back bit for bit."""
        with torch.no_grad():
            kept = [weight.clone() for weight in self._weights]
            self.copy_to_weights()
        try:
            yield
        finally:
            with torch.no_grad():
                _foreach_copy_(self._weights, kept)

    def averages(self) -> dict[str, Tensor]:
        """Name -> this process's average (the live tensors, not copies)."""
        return dict(zip(self._parameters, self._averages, strict=True))

    @torch.no_grad()
    def load(self, averages: Mapping[str, Tensor], updates: int) -> None:
        """Take up whole ``averages`` (any device) after ``updates`` updates; raises ``KeyError`` where a name is
        missing."""
        parts = [local(cut(averages[name], parameter.detach())) for name, parameter in self._parameters.items()]
        _foreach_copy_(self._averages, [part.to(a) for part, a in zip(parts, self._averages, strict=True)])
        self.updates = updates
