"""Films of episodes: frames with captions, several episodes side by side or one after the other, contact sheets.

Nothing is drawn while a rollout is measured: drawing takes 10 to 400 times as long as stepping. Episodes are a
function of their start, so those worth seeing are run once more in front of a camera.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from domains.policy.present import Clip
from domains.policy.records import EpisodeRecord
from domains.policy.rollout import Seat, rollout
from flowkit.errors import UserError
from flowkit.present import Picture

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

#: Width of an episode's picture in a film, and its most frames (longer episodes are shown faster).
WIDTH, MOST_FRAMES = 320, 400
#: Seconds that the end of an episode stays.
HOLD = 1.0
_INK, _PALE, _PAPER = (33, 37, 41), (110, 117, 125), (255, 255, 255)
_GOOD, _BAD = (24, 128, 70), (200, 45, 40)
_FRAME = 4  # width of the coloured frame, pixels


@dataclass(frozen=True)
class Shot:
    """A frame, (height, width, 3) uint8, its step, and the network calls of the plan being executed (or None)."""

    pixels: np.ndarray
    step: int
    nfe: float | None


@dataclass(frozen=True)
class Film:
    """An episode with its pictures: one of the start, one a step."""

    record: EpisodeRecord
    shots: tuple[Shot, ...]
    fps: float

    def frame(self, index: int) -> np.ndarray:
        """Frame ``index`` with its caption; the last one, framed in its verdict's colour, stands for all beyond it."""
        shot, ended = self.shots[min(index, len(self.shots) - 1)], index >= len(self.shots) - 1
        return captioned(shot, self.record, ended=ended)


def worth_seeing(records: Sequence[EpisodeRecord], *, first: int = 4, failures: int = 4) -> list[int]:
    """Starts of the first few episodes, then of a few further ones that failed (an environment's breakdown aside)."""
    starts = [record.start for record in records[:first]]
    lost = [r.start for r in records if not r.success and not r.failed and r.start not in starts]
    return starts + lost[:failures]


def film(
    policy: Any, env_id: str, starts: Sequence[int], *, seed: int = 0, step_limit: int | None = None
) -> list[Film]:
    """Run the episodes of ``starts`` again and take pictures; arguments as of :func:`domains.policy.rollout.rollout`.

    Raises:
        UserError: the environment cannot be drawn.
    """
    films = []
    for start in starts:
        camera = _Camera(env_id)
        (record,) = rollout(
            policy, env_id, starts=[start], seed=seed, envs=1, render="rgb_array", step_limit=step_limit, on_step=camera
        )
        if camera.shots:
            films.append(camera.film(record))
    return films


class _Camera:
    """Takes a picture a step; of a long episode every second, fourth, ... one, and always the last."""

    def __init__(self, env_id: str) -> None:
        self.env_id, self.fps, self.stride = env_id, 10.0, 1
        self.shots: list[Shot] = []
        self._latest: Shot | None = None

    def __call__(self, seat: Seat) -> None:
        self.fps = float(seat.env.metadata.get("render_fps") or 10.0)
        self._latest = Shot(
            _picture(seat, self.env_id), seat.step, seat.decisions[-1].network_calls if seat.decisions else None
        )
        if seat.step % self.stride == 0:
            self.shots.append(self._latest)
            if len(self.shots) > MOST_FRAMES:
                self.shots, self.stride = self.shots[::2], 2 * self.stride

    def film(self, record: EpisodeRecord) -> Film:
        shots = self.shots
        if self._latest is not None and shots[-1].step != self._latest.step:
            shots = [*shots, self._latest]
        return Film(record, tuple(shots), self.fps)


def _picture(seat: Seat, env_id: str) -> np.ndarray:
    from PIL import Image

    pixels = seat.env.render()
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 3 or pixels.dtype != np.uint8:
        raise UserError(f"{env_id} draws no pictures (its render() gives {type(pixels).__name__}): go without --video")
    image = Image.fromarray(pixels[..., :3])
    size = (WIDTH, max(1, round(WIDTH * image.height / image.width)))
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))


def captioned(shot: Shot, record: EpisodeRecord, *, ended: bool) -> np.ndarray:
    """A frame with two lines under it: start and verdict; step and NFE."""
    from PIL import Image, ImageDraw

    height, width = shot.pixels.shape[:2]
    size = max(11, width // 22)
    strip = round(3.1 * size)
    canvas = Image.new("RGB", (width + 2 * _FRAME, height + 2 * _FRAME + strip), _PAPER)
    canvas.paste(Image.fromarray(shot.pixels), (_FRAME, _FRAME))
    draw = ImageDraw.Draw(canvas)
    verdict, colour = ("success", _GOOD) if record.success else ("broke down" if record.failed else "failed", _BAD)
    if ended:
        corner = (width + 2 * _FRAME - 1, height + 2 * _FRAME - 1)
        draw.rectangle(((0, 0), corner), outline=colour, width=_FRAME)
    left, right, top = 2 * _FRAME, width, height + 2 * _FRAME + round(0.25 * size)
    draw.text((left, top), f"start {record.start}", _INK, _font(size))
    if ended:
        draw.text((right, top), verdict, colour, _font(size, bold=True), anchor="ra")
    top += round(1.35 * size)
    draw.text((left, top), f"step {shot.step} of {record.length}", _PALE, _font(size))
    if shot.nfe is not None:
        draw.text((right, top), f"NFE {shot.nfe:g}", _PALE, _font(size), anchor="ra")
    return np.asarray(canvas)


@functools.cache
def _font(size: int, *, bold: bool = False) -> FreeTypeFont:
    """The font that matplotlib ships."""
    from pathlib import Path

    import matplotlib as mpl
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), size)


def tiled(films: Sequence[Film], *, columns: int = 0) -> Clip:
    """All episodes at once in a grid; who ends early waits for the others."""
    columns = columns or grid_columns(len(films))
    length = max(len(f.shots) for f in films) + round(HOLD * films[0].fps)
    frames = [grid([f.frame(i) for f in films], columns) for i in range(length)]
    return Clip(np.stack(frames), films[0].fps)


def in_sequence(films: Sequence[Film]) -> Clip:
    """One episode after the other, each with a pause at its end."""
    frames = [f.frame(i) for f in films for i in range(len(f.shots) + round(HOLD * f.fps))]
    return Clip(np.stack(frames), films[0].fps)


def contact_sheet(films: Sequence[Film], *, columns: int = 5) -> Picture:
    """A row an episode, from its start to its end at equal distances."""
    rows = []
    for f in films:
        at = np.linspace(0, len(f.shots) - 1, columns).round().astype(int)
        # A frame before the last must not be judged, even where an episode has fewer frames than columns.
        rows += [captioned(f.shots[i], f.record, ended=place == columns - 1) for place, i in enumerate(at)]
    return Picture(grid(rows, columns))


def grid_columns(n: int) -> int:
    """Columns that make ``n`` tiles a little wider than high: 1, 2, 2 (for 3 and 4), 3, 3, 4, 4."""
    return 3 if n == 3 else math.ceil(math.sqrt(n))


def grid(tiles: Sequence[np.ndarray], columns: int, gap: int = 8) -> np.ndarray:
    """Pictures of one size, (h, w, 3) uint8, in rows of ``columns`` with white between."""
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for place, tile in enumerate(tiles):
        top, left = gap + place // columns * (height + gap), gap + place % columns * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    return canvas
