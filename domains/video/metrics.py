"""How far predicted frames are from the true ones: PSNR and SSIM of each frame, the best of several samples.

Pictures lie in [-1, 1], so their range is 2. Means over clips are means of the frames' decibels, never the decibels of
the mean error.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

#: Range of the pictures' values.
RANGE = 2.0


def psnr(made: Float[Tensor, "*n c h w"], true: Float[Tensor, "*n c h w"]) -> Float[Tensor, " *n"]:
    """10 log10(4 / mean squared error) of each frame, decibels; infinite for equal frames."""
    error = (made.double() - true.double()).square().mean((-3, -2, -1))
    return 10.0 * (RANGE**2 / error).log10()


def gaussian_window(size: int = 11, sigma: float = 1.5) -> Float[Tensor, " size"]:
    """Normal weights about the middle that sum to 1, float64."""
    offset = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    weight = torch.exp(-offset.square() / (2 * sigma**2))
    return weight / weight.sum()


def ssim(
    made: Float[Tensor, "*n c h w"], true: Float[Tensor, "*n c h w"], *, size: int = 11, sigma: float = 1.5
) -> Float[Tensor, " *n"]:
    """Structural similarity of each frame: a Gaussian window, K = 0.01 and 0.03, reflected edges, mean over channels.

    Wang, Bovik, Sheikh and Simoncelli 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity"
    (doi 10.1109/TIP.2003.819861). In float64, for a variance is a difference of large numbers.

    Raises:
        ValueError: the pictures are smaller than half the window.
    """
    if min(made.shape[-2:]) <= size // 2:
        raise ValueError(f"SSIM with a window of {size} needs pictures of more than {size // 2} pixels a side")
    window = gaussian_window(size, sigma).to(made.device)
    lead = made.shape[:-3]
    x, y = (v.double().reshape(-1, 1, *v.shape[-2:]) for v in torch.broadcast_tensors(made, true))

    def blur(v: Tensor) -> Tensor:
        v = F.pad(v, (size // 2,) * 4, mode="reflect")
        v = F.conv2d(v, window.reshape(1, 1, size, 1))
        return F.conv2d(v, window.reshape(1, 1, 1, size))

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x * mean_x, blur(y * y) - mean_y * mean_y
    both = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
    value = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    value = value / ((mean_x * mean_x + mean_y * mean_y + c1) * (var_x + var_y + c2))
    return value.reshape(*lead, -1).mean(-1)


def copy_last(context: Float[Tensor, "b k c h w"], frames: int) -> Float[Tensor, "b frames c h w"]:
    """The baseline of every table: the last known frame, ``frames`` times."""
    return context[:, -1:].expand(-1, frames, -1, -1, -1)


def best_of(values: Float[Tensor, "samples clips frames"]) -> Float[Tensor, "clips frames"]:
    """Curves of each clip's best sample: the one of the highest mean over its frames (higher is better)."""
    best = values.mean(2).argmax(0)
    return values[best, torch.arange(values.shape[1], device=values.device)]


def finite_mean(values: Tensor) -> float:
    """Mean over the finite values (equal frames have an infinite PSNR); infinite where there are none."""
    kept = values[values.isfinite()]
    return float(kept.mean()) if kept.numel() else math.inf
