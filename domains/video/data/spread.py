"""Frames, rather than clips, of a split."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from flowkit.data import Samples


def spread_frames(samples: Samples, count: int, *, clips: int | None = None) -> UInt8[Tensor, "n c h w"]:
    """At most ``count`` frames, spread evenly over the clips of a split (at most ``clips`` of them) and over the
    time of each.

    Args:
        samples: a split, of clips ``frames`` (T, c, h, w) uint8.
        count: of frames, at least 1.
        clips: how many to read, or None: as many as there are frames.
    """
    available = min(len(samples), count, len(samples) if clips is None else clips)
    if not available:
        return torch.empty(0, 0, 0, 0, dtype=torch.uint8)
    chosen = np.linspace(0, len(samples) - 1, available).astype(np.int64)
    each = -(-count // available)
    parts = []
    for start in range(0, available, 16):
        frames = samples.batch(chosen[start : start + 16].tolist())["frames"]
        # One frame of each clip comes from its middle: many sources begin alike.
        times = ((torch.arange(each) + 0.5) * frames.shape[1] / each).long().unique()
        parts.append(frames[:, times].flatten(0, 1))
    return torch.cat(parts)[:count].cpu()
