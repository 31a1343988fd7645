"""Pictures to look at: grids, enlarged where they are small."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from flowkit.present import Picture

#: Small pictures are enlarged to at least this side, pixels, by whole factors.
LEAST_SIDE = 56
GAP = 2


def grid(pictures: UInt8[Tensor, "n c h w"], *, columns: int = 10) -> Picture:
    """Pictures row by row on white, ``columns`` in a row; grey ones or RGB."""
    n, channels, height, width = pictures.shape
    columns = max(1, min(columns, n))
    rows = -(-n // columns)
    factor = max(1, -(-LEAST_SIDE // min(height, width)))
    shown = pictures.cpu().repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    if channels != 3:
        shown = shown[:, :1].expand(-1, 3, -1, -1)
    high, wide = height * factor + GAP, width * factor + GAP
    canvas = torch.full((3, rows * high - GAP if rows else 1, columns * wide - GAP), 255, dtype=torch.uint8)
    for number, picture in enumerate(shown):
        top, left = number // columns * high, number % columns * wide
        canvas[:, top : top + high - GAP, left : left + wide - GAP] = picture
    return Picture(np.ascontiguousarray(canvas.permute(1, 2, 0).numpy()))
