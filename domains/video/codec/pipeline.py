"""Trained autoencoders for users: ``flowkit.load("runs/my-codec")`` encodes and decodes anybody's frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from domains.video.values import pixels, scaled
from flowkit.errors import UserError

if TYPE_CHECKING:
    from domains.video.codec.task import FrameAutoencoder


class FrameCodec:
    """A trained autoencoder::

        codec = flowkit.load("runs/my-codec")
        latents = codec.encode(frames)  # uint8 (n, 3, h, w) to float32 (n, C, H, W)
        again = codec.decode(latents)  # uint8 (n, 3, h, w)
        codes = codec.codes(frames)  # int64 (n, H, W), the whole content of the frames

    Frames may have any size that divides by ``factor``; it was trained on ``size``.

    Args:
        task: a trained :class:`FrameAutoencoder`.

    Attributes:
        size: side of the frames of its training.
        factor: pixels of a frame to one of its latent, along each side.
    """

    def __init__(self, task: FrameAutoencoder) -> None:
        self.task = task.eval()
        self.network = task.network
        self.size, self.factor = task.size, task.network.factor

    @torch.no_grad()
    def encode(self, frames: Any) -> Float[Tensor, "n C H W"]:
        """Latents (before quantisation) of frames uint8 (n, c, h, w), tensor or array.

        Raises:
            UserError: frames of another kind or size.
        """
        known = torch.as_tensor(np.asarray(frames) if not isinstance(frames, Tensor) else frames)
        if known.dtype != torch.uint8 or known.ndim != 4:
            raise UserError(f"frames are uint8 (n, channels, height, width), not {known.dtype} {tuple(known.shape)}")
        self.network.shape(*known.shape[1:])
        return self.network.encode(scaled(known.to(self.task.device)))

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "n C H W"]) -> UInt8[Tensor, "n c h w"]:
        """Frames of latents, which are quantised first."""
        return pixels(self.network.decode(latents.to(self.task.device)).float())

    def codes(self, frames: Any) -> Int[Tensor, "n H W"]:
        """Numbers of the codes that stand for frames uint8 (n, c, h, w).

        Raises:
            UserError: see :meth:`encode`.
        """
        return self.network.quantiser.codes_of(self.encode(frames))

    def decode_codes(self, codes: Int[Tensor, "n H W"]) -> UInt8[Tensor, "n c h w"]:
        """Frames of codes.

        Raises:
            UserError: a number that is no code's.
        """
        size = self.network.codes
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < size:
            raise UserError(f"codes are 0 to {size - 1}, not {int(codes.min())} to {int(codes.max())}")
        return self.decode(self.network.quantiser.vectors(codes.to(self.task.device)))

    def __call__(self, frames: Any) -> UInt8[Tensor, "n c h w"]:
        """Frames through the codec and back."""
        return self.decode(self.encode(frames))
