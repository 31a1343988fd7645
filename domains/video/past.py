"""Which frames a prediction sees: the one before it (the reference), and one older frame drawn at random.

Davtyan, Sameni and Favaro 2022 (arXiv 2211.14575). Frames are numbered 0, 1, ...; the frame m to be predicted has the
reference r = m - 1, a past frame c in [max(0, m - horizon), m - 2] and their distance r - c >= 1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.random import RandomSource, uniform

#: When the past frame is drawn anew: before each call of the network, in each step of the solver, or once a frame.
Redraw = Literal["call", "step", "once"]
REDRAWS: tuple[Redraw, ...] = ("call", "step", "once")


class Drawn(NamedTuple):
    """Frame numbers (b,) of a training example: the target m and the past frame c. The reference is m - 1."""

    target: Int[Tensor, " b"]
    past: Int[Tensor, " b"]

    @property
    def reference(self) -> Int[Tensor, " b"]:
        """m - 1."""
        return self.target - 1

    @property
    def distance(self) -> Int[Tensor, " b"]:
        """From the past frame to the reference, at least 1."""
        return self.target - 1 - self.past


def integers(low: Int[Tensor, " b"], high: Int[Tensor, " b"], generator: RandomSource | None) -> Int[Tensor, " b"]:
    """Uniform in [low, high], both included, one a row.

    The uniform draws have 23 bits: with n values each has its chance to within n / 2^23.
    """
    u = uniform(tuple(low.shape), generator, device=low.device)
    return torch.minimum(low + (u * (high - low + 1)).long(), high)


def draw_frames(
    n: int, frames: int, generator: RandomSource | None, *, horizon: int = 0, device: torch.device | str = "cpu"
) -> Drawn:
    """Targets and past frames for ``n`` clips of ``frames`` frames: m ~ U{2 .. frames - 1}, c ~ U{max(0, m - horizon)
    .. m - 2}.

    Args:
        n: how many.
        frames: of a clip, at least 3.
        generator: of the draws.
        horizon: known frames that may be seen, the reference included; 0 for all, else at least 2.
        device: of the numbers.

    Raises:
        UserError: the clips are too short.
    """
    if frames < 3:
        raise UserError(f"RIVER learns from clips of at least 3 frames, the data has {frames}: raise data.frames")
    low = torch.full((n,), 2, device=device)
    target = integers(low, low + (frames - 3), generator)
    earliest = (target - horizon).clamp_min(0) if horizon else torch.zeros_like(target)
    return Drawn(target, integers(earliest, target - 2, generator))


class PastDraw:
    """Draws the condition of the next frame from the known ones: the ``redraw`` of its :class:`Cond`.

    One known frame counts twice, so that it is reference and past frame at the distance 1.

    Args:
        known: latents (b, k, C, H, W), the oldest first; the last is the reference.
        redraw: see :data:`Redraw`.
        extra: further conditions (``action``), unchanged by the draws.
    """

    def __init__(
        self,
        known: Float[Tensor, "b k C H W"],
        *,
        redraw: Redraw = "call",
        extra: dict[str, Tensor] | None = None,
    ) -> None:
        self.known = known if known.shape[1] > 1 else known.expand(-1, 2, -1, -1, -1)
        self.redraw, self.extra = redraw, extra or {}
        self._step, self._past = -1, torch.zeros(known.shape[0], dtype=torch.long, device=known.device)

    def draw(self, generator: RandomSource | None) -> Int[Tensor, " b"]:
        """Places of past frames, one a row: U{0 .. k - 2}."""
        rows, k = self.known.shape[:2]
        low = torch.zeros(rows, dtype=torch.long, device=self.known.device)
        return integers(low, low + (k - 2), generator)

    def cond(self, past: Int[Tensor, " b"], *, varies: bool = True) -> Cond:
        """The condition with the past frames at the places ``past``."""
        rows, k = self.known.shape[:2]
        values = {
            "reference": self.known[:, -1],
            "past": self.known[torch.arange(rows, device=past.device), past],
            "distance": k - 1 - past,
            **self.extra,
        }
        # Two known frames leave nothing to draw.
        redraw = self if varies and k > 2 and self.redraw != "once" else None
        return Cond(values, nulls={"distance": 1}, redraw=redraw)

    def first(self, generator: RandomSource | None) -> Cond:
        """The condition to begin a solve with."""
        self._step, self._past = -1, self.draw(generator)
        return self.cond(self._past)

    def __call__(self, cond: Cond, t: Tensor, step: int, generator: RandomSource | None) -> Cond:
        """A fresh draw: in every call, or where ``step`` is another than before."""
        if self.redraw == "call" or step != self._step:
            self._step, self._past = step, self.draw(generator)
        return replace(self.cond(self._past, varies=False), redraw=cond.redraw)
