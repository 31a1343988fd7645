"""Predicted clips to look at: panels side by side, the known frames framed in blue and the predicted ones in orange."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flowkit.clip import Clip

#: Frame of what was known, and of what was predicted (RGB); readable by the colour-blind.
KNOWN, PREDICTED = (0, 114, 178), (230, 130, 0)
#: Pixels of the coloured frame, and between panels.
BORDER, GAP = 3, 4
#: Small frames are enlarged to at least this side, pixels, by whole factors.
LEAST_SIDE = 96


def framed(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """A frame (h, w, 3) uint8, enlarged where it is small, with a coloured border around it."""
    factor = max(1, -(-LEAST_SIDE // min(pixels.shape[:2])))
    pixels = pixels.repeat(factor, 0).repeat(factor, 1)
    out = np.empty((pixels.shape[0] + 2 * BORDER, pixels.shape[1] + 2 * BORDER, 3), np.uint8)
    out[:] = colour
    out[BORDER:-BORDER, BORDER:-BORDER] = pixels
    return out


def side_by_side(rows: Sequence[Sequence[np.ndarray]], *, context: int, fps: float, truth: bool = False) -> Clip:
    """Clips on a grid.

    Args:
        rows: rows of panels (T, c, h, w) uint8, of 1 or 3 channels, all of one shape; shorter ones hold their last
            frame.
        context: frames that were known, at the beginning of every panel.
        fps: frames a second.
        truth: the first panel of each row is the true clip: all its frames are framed as known.
    """
    length = max(len(panel) for row in rows for panel in row)
    frames = []
    for t in range(length):
        shown = [[panel[min(t, len(panel) - 1)] for panel in row] for row in rows]
        known = [[t < context or (truth and place == 0) for place in range(len(row))] for row in rows]
        frames.append(grid(shown, known))
    return Clip(np.stack(frames), fps)


def grid(rows: Sequence[Sequence[np.ndarray]], known: Sequence[Sequence[bool]]) -> np.ndarray:
    """One picture (h, w, 3) of rows of frames (c, h, w) uint8, framed as ``known`` or as predicted."""
    lines = []
    for row, marks in zip(rows, known, strict=True):
        panels = []
        for frame, mark in zip(row, marks, strict=True):
            shown = frame.transpose(1, 2, 0)
            shown = shown.repeat(3, 2) if shown.shape[2] == 1 else shown
            panels.append(framed(shown, KNOWN if mark else PREDICTED))
        lines.append(_joined(panels, axis=1))
    return _joined(lines, axis=0)


def _joined(parts: Sequence[np.ndarray], *, axis: int) -> np.ndarray:
    shape = list(parts[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, 255, np.uint8)
    spread = [part for i, p in enumerate(parts) for part in ((gap, p) if i else (p,))]
    return np.concatenate(spread, axis)
