"""Bytes of frames and the values in [-1, 1] that networks see."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def scaled(frames: UInt8[Tensor, "*n c h w"]) -> Float[Tensor, "*n c h w"]:
    """0 .. 255 to -1 .. 1, float32."""
    return frames.float() / 127.5 - 1.0


def pixels(frames: Float[Tensor, "*n c h w"]) -> UInt8[Tensor, "*n c h w"]:
    """-1 .. 1 to 0 .. 255; what lies beyond is clipped."""
    return ((frames.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)
