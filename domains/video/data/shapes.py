"""Small pictures drawn by rule: what moves in :mod:`domains.video.data.sprites`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

#: Fractions of a pixel that a position may have.
PHASES = 8
_FINE = 8


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Distance to the outline of a star of five points, along the ray from its middle.
    angle = np.abs((np.arctan2(x, -y) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    inner = 0.45
    edge = inner * np.sin(np.pi / 5) / (np.sin(np.pi / 5 - angle) + inner * np.sin(angle))
    return np.hypot(x, y) < 0.98 * edge


_SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": lambda x, y: np.hypot(x, y) < 0.9,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) < 0.78,
    "triangle": lambda x, y: (y < 0.75) & (y > 2 * abs(x) - 0.9),
    "plus": lambda x, y: (np.minimum(abs(x), abs(y)) < 0.28) & (np.maximum(abs(x), abs(y)) < 0.9),
    "ring": lambda x, y: abs(np.hypot(x, y) - 0.68) < 0.22,
    "frame": lambda x, y: abs(np.maximum(abs(x), abs(y)) - 0.62) < 0.2,
    "diamond": lambda x, y: abs(x) + abs(y) < 0.95,
    "cross": lambda x, y: (np.minimum(abs(x - y), abs(x + y)) < 0.38) & (np.maximum(abs(x), abs(y)) < 0.82),
    "moon": lambda x, y: (np.hypot(x, y) < 0.9) & (np.hypot(x - 0.45, y) > 0.65),
    "bars": lambda x, y: (abs(abs(x) - 0.55) < 0.27) & (abs(y) < 0.82),
    "hourglass": lambda x, y: (abs(y) < 0.82) & (abs(x) < 0.12 + 0.85 * abs(y)),
    "star": _star,
}
NAMES = tuple(_SHAPES)


def draw_shapes(side: int) -> np.ndarray:
    """All shapes in the order of :data:`NAMES`, white on black, edges smoothed: uint8 (classes, side, side)."""
    places = (np.arange(side * _FINE) + 0.5) / (side * _FINE) * 2 - 1
    y, x = np.meshgrid(places, places, indexing="ij")
    fine = np.stack([rule(x, y) for rule in _SHAPES.values()])
    cover = fine.reshape(len(fine), side, _FINE, side, _FINE).sum(axis=(2, 4))
    return (cover * 255 // _FINE**2).astype(np.uint8)


def shifted(sprites: np.ndarray, phase_y: np.ndarray, phase_x: np.ndarray) -> np.ndarray:
    """Sprites moved down and right by parts of a pixel, in whole numbers: the same on every machine.

    Args:
        sprites: uint8 (n, side, side).
        phase_y, phase_x: (n,) eighths of a pixel, 0 to 7.

    Returns:
        uint8 (n, side + 1, side + 1).
    """
    count, side, _ = sprites.shape
    y, x = (phase.astype(np.uint16).reshape(-1, 1, 1) for phase in (phase_y, phase_x))
    rows = np.zeros((count, side + 1, side), dtype=np.uint16)
    rows[:, :-1] = sprites * (PHASES - y)
    rows[:, 1:] += sprites * y
    out = np.zeros((count, side + 1, side + 1), dtype=np.uint16)
    out[:, :, :-1] = rows * (PHASES - x)
    out[:, :, 1:] += rows * x
    return (out // PHASES**2).astype(np.uint8)
