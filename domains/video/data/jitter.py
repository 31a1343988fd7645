"""Other colours for training clips, one change for all frames of a clip."""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.errors import UserError
from flowkit.random import RandomSource, uniform

#: Weights of red, green and blue in grey.
_GREY = (0.299, 0.587, 0.114)


class ColourJitter:
    """Random brightness, contrast, saturation and hue, in this order, each drawn once a clip. At 0 nothing is drawn.

    RIVER's colour jitter for CLEVRER (arXiv 2211.14575) is 0.1, 0.1, 0.1 and 0.25.

    Args:
        brightness: b: values are multiplied by a factor uniform in 1 - b to 1 + b.
        contrast: the same for distances from the mean grey of the clip.
        saturation: the same for distances from each pixel's grey.
        hue: h: hues turn by a part of a full circle, uniform in -h to h; at most 0.5.

    Raises:
        UserError: a number out of range.
    """

    def __init__(
        self, *, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0
    ) -> None:
        for name, value, most in (
            ("brightness", brightness, 1.0), ("contrast", contrast, 1.0), ("saturation", saturation, 1.0),
            ("hue", hue, 0.5),
        ):  # fmt: skip
            if not 0.0 <= value <= most:
                raise UserError(f"ColourJitter: {name} must lie in 0 to {most:g}, not {value:g}")
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue

    @property
    def active(self) -> bool:
        """Whether it changes anything."""
        return any((self.brightness, self.contrast, self.saturation, self.hue))

    def __call__(self, frames: Tensor, generator: RandomSource | None) -> Tensor:
        """Frames (b, k, 3, h, w) uint8 in other colours; the draws of a clip are those of its row.

        Raises:
            UserError: frames that have no colours.
        """
        if not self.active:
            return frames
        if frames.shape[2] != 3:
            raise UserError(f"ColourJitter changes frames of 3 channels, the data has {frames.shape[2]}")
        scales = frames.new_tensor((self.brightness, self.contrast, self.saturation, self.hue), dtype=torch.float32)
        drawn = (2.0 * uniform((len(frames), 4), generator, device=frames.device) - 1.0) * scales
        bright, contrast, saturation, hue = drawn.reshape(-1, 4, 1, 1, 1, 1).unbind(1)
        grey = frames.new_tensor(_GREY, dtype=torch.float32).reshape(1, 1, 3, 1, 1)
        x = (frames.float() / 255.0 * (1.0 + bright)).clamp(0.0, 1.0)
        mean = (x * grey).sum(2, keepdim=True).mean((1, 3, 4), keepdim=True)
        x = (mean + (1.0 + contrast) * (x - mean)).clamp(0.0, 1.0)
        own = (x * grey).sum(2, keepdim=True)
        x = (own + (1.0 + saturation) * (x - own)).clamp(0.0, 1.0)
        if self.hue:
            x = turn_hue(x, hue)
        return (x * 255.0).round().to(torch.uint8)


def turn_hue(x: Tensor, turn: Tensor) -> Tensor:
    """RGB in [0, 1], channels third from the end, with hues turned by parts of a circle; value and saturation of HSV
    stay.
    """
    value, top = x.max(-3, keepdim=True)
    chroma = value - x.min(-3, keepdim=True).values
    red, green, blue = x.split(1, -3)
    safe = chroma.clamp_min(1e-12)
    # Sixths of a circle from red.
    from_red, from_green, from_blue = (green - blue) / safe, (blue - red) / safe + 2.0, (red - green) / safe + 4.0
    hue = torch.where(top == 0, from_red, torch.where(top == 1, from_green, from_blue)) + 6.0 * turn
    parts = [(hue + n) % 6.0 for n in (5.0, 3.0, 1.0)]
    return torch.cat([value - chroma * torch.minimum(k, 4.0 - k).clamp(0.0, 1.0) for k in parts], -3)
