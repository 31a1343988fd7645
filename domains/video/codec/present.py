"""Frames above what a codec makes of them."""

from __future__ import annotations

import numpy as np

from domains.video.present import GAP, LEAST_SIDE
from flowkit.present import Picture


def above(true: np.ndarray, made: np.ndarray) -> Picture:
    """Frames (n, c, h, w) uint8 of 1 or 3 channels in the upper row, ``made`` in the lower one; small ones are enlarged
    by a whole factor."""
    factor = max(1, -(-LEAST_SIDE // min(true.shape[2:])))
    rows = [_row(frames, factor) for frames in (true, made)]
    gap = np.full((GAP, *rows[0].shape[1:]), 255, np.uint8)
    return Picture(np.concatenate([rows[0], gap, rows[1]]))


def _row(frames: np.ndarray, factor: int) -> np.ndarray:
    panels = []
    for frame in frames:
        shown = frame.transpose(1, 2, 0)
        shown = shown.repeat(3, 2) if shown.shape[2] == 1 else shown
        shown = shown.repeat(factor, 0).repeat(factor, 1)
        panels += [np.full((shown.shape[0], GAP, 3), 255, np.uint8)] * bool(panels) + [shown]
    return np.concatenate(panels, 1)
