"""What training may add to the error of pixels: a measure of how alike two frames look."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from domains.video.metrics import ssim


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
