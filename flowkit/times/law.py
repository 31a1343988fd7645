"""Base classes: laws of training times and grids of sampling times."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.paths.path import Path
from flowkit.random import RandomSource


@dataclass(frozen=True)
class Times:
    """Training times t (b,) in [0, 1] and the weight (b,) that each sample's loss is multiplied by."""

    t: Float[Tensor, " b"]
    weight: Float[Tensor, " b"]


class TimeLaw(ABC):
    """The law of training times."""

    @abstractmethod
    def draw(self, n: int, path: Path, generator: RandomSource | None, *, device: torch.device | str = "cpu") -> Times:
        """``n`` times with their weights."""

    def density(self, t: Float[Tensor, " *b"], path: Path) -> Float[Tensor, " *b"]:
        """The density of the law at ``t``; 0 outside its range."""
        raise NotImplementedError(f"{type(self).__name__} states no density")

    def record(self, t: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> None:
        """Told the unweighted loss of each sample after a training step; laws that adapt learn from it."""


class TimeGrid(ABC):
    """Sampling times from 0 to 1; :func:`flowkit.solve` maps them to its span."""

    @abstractmethod
    def points(self, steps: int) -> Float[Tensor, " n"]:
        """``steps + 1`` strictly increasing float64 times with 0 and 1 exact at the ends."""
