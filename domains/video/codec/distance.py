"""What training may add to the error of pixels: a measure of how alike two frames look."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from domains.video.metrics import ssim

if TYPE_CHECKING:
    from domains.video.evaluation.pips_hed import PipsHed


class FrameDistance(nn.Module, ABC):
    """A differentiable distance of frames in [-1, 1]. Its weights, if any, are frozen and no part of the codec, which
    is saved without them."""

    @abstractmethod
    def forward(self, made: Float[Tensor, "n c h w"], true: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        """0 for equal frames."""


class PixelsAlone(FrameDistance):
    """Nothing beside the error of pixels."""

    def forward(self, made: Float[Tensor, "n c h w"], true: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        """Zeros."""
        return torch.zeros(len(made), device=made.device)


class StructureDistance(FrameDistance):
    """1 - SSIM, which needs no trained network: edges count, whatever their contrast. Frames of at least 6 pixels."""

    def forward(self, made: Float[Tensor, "n c h w"], true: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        """Between 0 and 2."""
        return 1.0 - ssim(made, true).float()


class HedDistance(FrameDistance):
    """PIPS-HED, as evaluations measure it, with gradients: features of a network that finds edges, in place of LPIPS.
    Frames in colour, of at least 16 pixels. The weights are read on the first use, and only training needs them.

    Args:
        weights: the file; empty: where :func:`domains.video.evaluation.weights.read_weights` looks for it.
    """

    def __init__(self, *, weights: str = "") -> None:
        super().__init__()
        self.weights = weights
        # In a list, so that it is no part of a state.
        self._network: list[PipsHed] = []

    def forward(self, made: Float[Tensor, "n c h w"], true: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        """Between 0 and 1.

        Raises:
            UserError: the weights are not there.
        """
        if not self._network:
            from domains.video.evaluation.pips_hed import load_pips_hed

            self._network = [load_pips_hed(self.weights or None, made.device)]
        network = self._network[0]
        with torch.no_grad():
            wanted = network.features(true)
        total = torch.zeros(len(made), device=made.device)
        for a, b in zip(network.features(made), wanted, strict=True):
            total = total + 0.5 * (_unit(a) - _unit(b)).square().sum(1).mean((1, 2))
        return total / len(wanted)


def _unit(x: Tensor) -> Tensor:
    # Safe at 0, where the norm has no gradient.
    return x / (x.square().sum(1, keepdim=True) + 1e-10).sqrt()
