"""Frozen autoencoders: methods that work in a latent space see pictures through a :class:`LatentCodec`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowkit.errors import UserError
from flowkit.random import RandomSource


class LatentCodec(nn.Module, ABC):
    """Pictures in [-1, 1] to latents and back. Frozen: it keeps evaluation mode, and its weights never learn.

    A task encodes without gradients, and saves the codec's weights with its own: what it has saved needs no file of
    the codec's. So a constructor builds the network from its arguments and opens no file; :meth:`adapt` reads weights.
    """

    #: True for codecs whose latents are random in training.
    draws: bool = False

    def adapt(self, images: Callable[[], Float[Tensor, "n c h w"]]) -> None:
        """Called once by the task's ``adapt``, before a fresh training: read weights from where they lie.

        Args:
            images: gives some pictures of the training, in [-1, 1]; reads them when it is called.

        Raises:
            UserError: there are no such weights.
        """

    @abstractmethod
    def shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """(C, H, W) of the latent of a picture of this shape.

        Raises:
            UserError: the codec cannot take such a picture.
        """

    @abstractmethod
    def encode(
        self, images: Float[Tensor, "n c h w"], generator: RandomSource | None = None
    ) -> Float[Tensor, "n C H W"]:
        """The latents of pictures in [-1, 1]; random ones of a codec that :attr:`draws`, given a ``generator``."""

    @abstractmethod
    def decode(self, latents: Float[Tensor, "n C H W"]) -> Float[Tensor, "n c h w"]:
        """Pictures, about in [-1, 1], of latents."""

    def freeze(self) -> LatentCodec:
        """Stop its parameters from learning; a task calls it once."""
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> LatentCodec:
        """Stays in evaluation mode, whatever ``mode`` is."""
        return super().train(False)


class IdentityCodec(LatentCodec):
    """No autoencoder: the latent is the picture, with blocks of ``patch`` x ``patch`` pixels moved into the channels.

    Lossless. A patch makes fewer, wider tokens: 64 x 64 x 3 with ``patch`` 8 is a latent of 8 x 8 x 192.

    Args:
        patch: side of a block, pixels; 1 leaves the picture as it is.
    """

    def __init__(self, *, patch: int = 1) -> None:
        super().__init__()
        if patch < 1:
            raise UserError(f"IdentityCodec: patch must be at least 1, not {patch}")
        self.patch = patch

    def shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        if height % self.patch or width % self.patch:
            raise UserError(f"IdentityCodec: pictures of {height} x {width} do not divide into patches of {self.patch}")
        return channels * self.patch**2, height // self.patch, width // self.patch

    def encode(
        self, images: Float[Tensor, "n c h w"], generator: RandomSource | None = None
    ) -> Float[Tensor, "n C H W"]:
        return F.pixel_unshuffle(images, self.patch)

    def decode(self, latents: Float[Tensor, "n C H W"]) -> Float[Tensor, "n c h w"]:
        return F.pixel_shuffle(latents, self.patch)
