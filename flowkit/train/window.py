"""Losses since the last log, kept on the device: the loop never waits for a number.

The numbers come to the host when they are logged or a checkpoint is written; then each step's values are checked, so a
loss that is not finite is found with its exact step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from accelerate import Accelerator
from torch import Tensor


class Window:
    """Named values of the steps since the last log.

    Args:
        fetched: name -> values by step that an interrupted run had fetched and not yet logged.
    """

    def __init__(self, fetched: Mapping[str, list[float]] | None = None) -> None:
        self.fetched: dict[str, list[float]] = {name: list(values) for name, values in (fetched or {}).items()}
        self._waiting: dict[str, list[tuple[int, Tensor]]] = {}

    def add(self, step: int, name: str, value: Tensor) -> None:
        """Note a value of ``step``: a scalar, or (b,) whose mean counts; a name may come several times in a step."""
        self._waiting.setdefault(name, []).append((step, value.detach()))

    def fetch(self, accelerator: Accelerator) -> dict[int, dict[str, float]]:
        """Bring all to the host, averaged over processes; returns the values that are not finite, by step and name.

        The only place of the loop that waits for the device.
        """
        if not self._waiting:
            return {}
        flat = torch.cat([_means([value for _, value in pairs]) for pairs in self._waiting.values()])
        if accelerator.num_processes > 1:
            flat = torch.as_tensor(accelerator.reduce(flat, reduction="mean"))
        numbers, broken = iter(flat.tolist()), {}
        for name, pairs in self._waiting.items():
            values = [next(numbers) for _ in pairs]
            self.fetched.setdefault(name, []).extend(values)
            for (step, _), value in zip(pairs, values, strict=True):
                if not math.isfinite(value):
                    broken.setdefault(step, {})[name] = value
        self._waiting.clear()
        return dict(sorted(broken.items()))

    def means(self) -> dict[str, float]:
        """Name -> mean of what was fetched; the window is empty afterwards."""
        means = {name: math.fsum(values) / len(values) for name, values in self.fetched.items()}
        self.fetched.clear()
        return means


def _means(values: Iterable[Tensor]) -> Tensor:
    """(n,): the mean of each value, in as few kernels as their shapes allow."""
    values = list(values)
    if len({value.shape for value in values}) > 1:
        return torch.stack([value.float().mean() for value in values])
    stacked = torch.stack(values).float()
    return stacked.flatten(1).mean(1) if stacked.ndim > 1 else stacked
