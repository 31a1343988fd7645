"""Glyphs that are drawn: pictures with classes, without a download."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from domains.imaging.data.pictures import SPLITS, PictureSamples, PictureSource
from flowkit.data import Split
from flowkit.errors import UserError
from flowkit.random import mix_seed

#: Pictures drawn at once.
_BLOCK = 4096


def _segment(x: Tensor, y: Tensor, a: tuple[float, float], b: tuple[float, float]) -> Tensor:
    """Distance to the segment from ``a`` to ``b``."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    along = (((x - a[0]) * dx + (y - a[1]) * dy) / (dx * dx + dy * dy)).clamp(0.0, 1.0)
    return torch.hypot(x - a[0] - along * dx, y - a[1] - along * dy)


def _strokes(*lines: tuple[float, float, float, float]) -> Callable[[Tensor, Tensor], Tensor]:
    def distance(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([_segment(x, y, (a, b), (c, d)) for a, b, c, d in lines]).amin(0)

    return distance


#: Distance of a point (x, y) in [-1, 1]^2 to the strokes of each glyph; y points down.
GLYPHS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ring": lambda x, y: (torch.hypot(x, y) - 0.6).abs(),
    "bar": _strokes((0.0, -0.7, 0.0, 0.7)),
    "cross": _strokes((-0.55, -0.55, 0.55, 0.55), (-0.55, 0.55, 0.55, -0.55)),
    "square": _strokes(
        (-0.55, -0.55, 0.55, -0.55), (0.55, -0.55, 0.55, 0.55), (0.55, 0.55, -0.55, 0.55), (-0.55, 0.55, -0.55, -0.55)
    ),
    "triangle": _strokes((0.0, -0.65, 0.6, 0.5), (0.6, 0.5, -0.6, 0.5), (-0.6, 0.5, 0.0, -0.65)),
    "tee": _strokes((-0.6, -0.6, 0.6, -0.6), (0.0, -0.6, 0.0, 0.7)),
    "ell": _strokes((-0.45, -0.7, -0.45, 0.6), (-0.45, 0.6, 0.5, 0.6)),
    "zed": _strokes((-0.55, -0.6, 0.55, -0.6), (0.55, -0.6, -0.55, 0.6), (-0.55, 0.6, 0.55, 0.6)),
    "vee": _strokes((-0.55, -0.6, 0.0, 0.65), (0.0, 0.65, 0.55, -0.6)),
    "arc": lambda x, y: torch.where(
        y < 0.2, (torch.hypot(x, y - 0.2) - 0.6).abs(), torch.hypot(x.abs() - 0.6, y - 0.2)
    ),
}


class DrawnGlyphs(PictureSource):
    """Ten glyphs, each drawn with a random place, size, turn, slant and width of the stroke: grey, white on black.
    Picture i of a split is a function of the arguments, the split and i's place in the draw.

    Args:
        size: height and width in pixels.
        pictures: of the training split.
        held_out: of the validation and of the test split.
        seed: of the draws.
    """

    class_names = tuple(GLYPHS)
    origin = "drawn by rule"
    licence = "Apache-2.0"

    def __init__(self, *, size: int = 28, pictures: int = 20_000, held_out: int = 2000, seed: int = 0) -> None:
        self.size, self.pictures, self.held_out, self.seed = size, pictures, held_out, seed

    def prepare(self) -> None:
        """Check the arguments; there is nothing to fetch.

        Raises:
            UserError: arguments that make no pictures.
        """
        if self.size < 4 or self.pictures < 1 or self.held_out < 0:
            raise UserError(
                f"data.init_args: size {self.size}, pictures {self.pictures}, held_out {self.held_out}: glyphs need 4 "
                "pixels or more and a picture to train on"
            )

    def read(self, name: Split) -> PictureSamples:
        """Draw one split."""
        self.prepare()
        n = self.pictures if name == "train" else self.held_out
        generator = torch.Generator().manual_seed(mix_seed(self.seed, SPLITS.index(name)))
        draws = torch.rand(n, 7, generator=generator)
        label = (draws[:, 0] * len(GLYPHS)).long().clamp_max(len(GLYPHS) - 1)
        drawn = [_draw(*part, self.size) for part in zip(label.split(_BLOCK), draws[:, 1:].split(_BLOCK), strict=True)]
        return PictureSamples(torch.cat(drawn) if drawn else torch.empty(0, 1, self.size, self.size).byte(), label)


def _draw(label: Tensor, draws: Tensor, size: int) -> Tensor:
    """Bytes (n, 1, size, size) of glyphs with ``draws`` (n, 6) in [0, 1)."""
    at = (torch.arange(size) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(at, at, indexing="ij")
    right, down, scale, turn, slant, width = ((2 * draws - 1)[:, i, None, None] for i in range(6))
    scale = 0.85 + 0.2 * scale
    x, y = (x - 0.15 * right) / scale, (y - 0.15 * down) / scale
    angle = turn * (math.pi / 10)
    x, y = angle.cos() * x + angle.sin() * y, angle.cos() * y - angle.sin() * x
    x = x + 0.2 * slant * y
    distance = torch.empty_like(x)
    for number, glyph in enumerate(GLYPHS.values()):
        rows = label == number
        distance[rows] = glyph(x[rows], y[rows])
    # Grey over the two pixels at the edge of a stroke.
    half = 0.12 + 0.05 * width
    cover = ((half - distance) * scale * (size / 4) + 0.5).clamp(0.0, 1.0)
    return (cover * 255).round().byte()[:, None]
