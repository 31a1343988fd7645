"""Pictures of the fork, drawn in numpy with soft edges: lanes, obstacle, trail, agent. About a millisecond each."""

from __future__ import annotations

import numpy as np

SIZE = 256
_GROUND = (250, 249, 246)
_WAY = (232, 234, 238)
_GOAL = (190, 226, 200)
_OBSTACLE = (84, 92, 107)
_TRAIL = (46, 124, 214)
_AGENT = (24, 72, 148)
_CRASH = (214, 58, 52)
_LANE = (206, 210, 216)


class ForkDrawing:
    """Draws one fork. Two lanes are seen from above (x to the right, y up); more from behind (y right, z up).

    Args:
        lanes: (modes, sides), the middles of the lanes.
        tolerance: how wide they are to each side.
        obstacle: half width or radius of the obstacle.
        span: where along x the obstacle lies.
        length: where the way ends.
    """

    def __init__(
        self, *, lanes: np.ndarray, tolerance: float, obstacle: float, span: tuple[float, float], length: float
    ) -> None:
        self.above = lanes.shape[1] == 1
        self.extent = 1.4  # side of the picture in units of the environment
        self.scale = SIZE / self.extent
        picture = np.empty((SIZE, SIZE, 3), np.float32)
        picture[:] = _GROUND
        if self.above:
            _box(picture, *self._pixel(-0.05, 0.06), *self._pixel(span[0] - 0.25, -0.06), _WAY, 6)
            for lane in lanes[:, 0]:
                _box(picture, *self._pixel(0.55, lane + tolerance), *self._pixel(length, lane - tolerance), _WAY, 6)
                _capsule(picture, self._pixel(0.6, lane), self._pixel(length - 0.1, lane), 1.0, _LANE, 1.0)
                corner = self._pixel(length - 0.07, lane + tolerance)
                _box(picture, *corner, *self._pixel(length + 0.03, lane - tolerance), _GOAL, 5)
            if obstacle:
                corners = (*self._pixel(span[0], obstacle), *self._pixel(span[1], -obstacle))
                _box(picture, *corners, _OBSTACLE, 4)
        else:
            for lane in lanes:
                _capsule(picture, self._pixel(0.0, 0.0), self._pixel(*lane), 1.0, _LANE, 1.0)
            for lane in lanes:
                _capsule(picture, self._pixel(*lane), self._pixel(*lane), tolerance * self.scale, _GOAL, 1.0)
            if obstacle:
                _capsule(picture, self._pixel(0, 0), self._pixel(0, 0), obstacle * self.scale, _OBSTACLE, 1.0)
        self.background = picture

    def _pixel(self, right: float, up: float) -> tuple[float, float]:
        """Units of the environment -> (column, row), not rounded."""
        left = 0.05 if self.above else self.extent / 2
        return (right + left) * self.scale, (self.extent / 2 - up) * self.scale

    def draw(self, trail: np.ndarray, *, crashed: bool) -> np.ndarray:
        """The picture (256, 256, 3) uint8 after the observations ``trail`` (n, 1 + sides), the last one the agent."""
        picture = self.background.copy()
        points = [self._pixel(float(row[-2]), float(row[-1])) for row in trail]
        for i in range(1, len(points)):
            weight = 0.35 + 0.65 * i / len(points)
            _capsule(picture, points[i - 1], points[i], 2.0, _TRAIL, weight)
        _capsule(picture, points[-1], points[-1], 8.0, _GROUND, 1.0)
        _capsule(picture, points[-1], points[-1], 6.0, _CRASH if crashed else _AGENT, 1.0)
        return np.rint(picture).astype(np.uint8)


def _blend(picture: np.ndarray, rows: slice, columns: slice, cover: np.ndarray, colour: tuple[int, int, int]) -> None:
    part = picture[rows, columns]
    part += cover[..., None] * (np.asarray(colour, np.float32) - part)


def _window(low: float, high: float) -> slice:
    return slice(max(0, min(SIZE, int(low))), max(0, min(SIZE, int(high) + 2)))


def _capsule(
    picture: np.ndarray,
    begin: tuple[float, float],
    end: tuple[float, float],
    radius: float,
    colour: tuple[int, int, int],
    weight: float,
) -> None:
    """A line with round ends (a disc where both ends are equal); the edge is one pixel soft."""
    (x0, y0), (x1, y1) = begin, end
    reach = radius + 1
    rows = _window(min(y0, y1) - reach, max(y0, y1) + reach)
    columns = _window(min(x0, x1) - reach, max(x0, x1) + reach)
    x = np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5 - x0
    y = (np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5 - y0)[:, None]
    dx, dy = x1 - x0, y1 - y0
    along = np.clip((x * dx + y * dy) / max(dx * dx + dy * dy, 1e-9), 0.0, 1.0)
    distance = np.hypot(x - along * dx, y - along * dy)
    _blend(picture, rows, columns, weight * np.clip(radius + 0.5 - distance, 0.0, 1.0), colour)


def _box(
    picture: np.ndarray, left: float, top: float, right: float, bottom: float, colour: tuple[int, int, int], round_: int
) -> None:
    """A rectangle with round corners of radius ``round_`` pixels."""
    rows, columns = _window(top - 1, bottom + 1), _window(left - 1, right + 1)
    x = np.abs(np.arange(columns.start, columns.stop) + 0.5 - (left + right) / 2) - (right - left) / 2 + round_
    y = (np.abs(np.arange(rows.start, rows.stop) + 0.5 - (top + bottom) / 2) - (bottom - top) / 2 + round_)[:, None]
    distance = np.hypot(np.maximum(x, 0), np.maximum(y, 0)) + np.minimum(np.maximum(x, y), 0) - round_
    _blend(picture, rows, columns, np.clip(0.5 - distance, 0.0, 1.0), colour)
