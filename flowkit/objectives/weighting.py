"""Weights of samples that are read off their own losses."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from flowkit.errors import UserError

__all__ = ["LossWeight", "RelativeLoss"]


class LossWeight(ABC):
    """The weight (b,) of each sample, from its loss (b,), which comes without gradient."""

    @abstractmethod
    def __call__(self, loss: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Weights that multiply the losses, per sample and before the mean over the batch."""


class RelativeLoss(LossWeight):
    """1 / max(loss, floor): the gradient is that of the mean logarithm of the losses, so no sample outweighs others.

    On the pairs of a trained flow losses differ by factors of more than 100 between times. Kim et al. 2024, "Simple
    ReFlow" (arXiv 2410.07815). Gradients no longer tell the scale of the loss: tune clipping and weight decay anew.

    Args:
        floor: of the loss, positive: a pair that is learnt by heart would otherwise get an unbounded weight.
    """

    def __init__(self, floor: float = 1e-4) -> None:
        if not (math.isfinite(floor) and floor > 0.0):
            raise UserError(f"RelativeLoss: floor must be positive, got {floor}")
        self.floor = floor

    def __call__(self, loss: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return 1.0 / loss.clamp_min(self.floor)

    def __repr__(self) -> str:
        return f"RelativeLoss(floor={self.floor:g})"
