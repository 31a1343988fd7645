"""Segments of the time axis: 0 = s_0 < s_1 < ... < s_K = 1, and sampling grids that respect them.

A field that was trained segment by segment jumps at the boundaries, and a solver asks for it exactly there. One rule
for all: **a boundary belongs to the segment that begins there**, segment k = [s_k, s_{k+1}), k = 0 .. K - 1; t = 1
belongs to the last. Times are compared with boundaries in the precision of the times, so that a grid's own boundary
never falls into the segment before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowkit.errors import UserError
from flowkit.random import RandomSource, uniform
from flowkit.times.law import TimeGrid

__all__ = ["SegmentGrid", "Segments"]


class Segments:
    """Where time is cut.

    Args:
        cuts: a number K of equal segments, or the boundaries themselves from 0 to 1.

    Attributes:
        boundaries: s_0 = 0 .. s_K = 1.

    Raises:
        UserError: fewer than one segment, or boundaries that do not rise from 0 to 1.
    """

    def __init__(self, cuts: int | Sequence[float] = 1) -> None:
        if isinstance(cuts, int):
            if cuts < 1:
                raise UserError(f"segments: at least one is needed, got {cuts}")
            cuts = [k / cuts for k in range(cuts + 1)]
        boundaries = tuple(float(s) for s in cuts)
        rises = all(a < b for a, b in pairwise(boundaries))
        if len(boundaries) < 2 or boundaries[0] != 0.0 or boundaries[-1] != 1.0 or not rises:
            raise UserError(f"segments: the boundaries must rise from 0 to 1, got {list(boundaries)}")
        self.boundaries = boundaries
        self._tables: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def __len__(self) -> int:
        return len(self.boundaries) - 1

    def _table(self, t: Tensor) -> Tensor:
        # Kept, for a copy from the host waits for the device.
        key = (t.dtype, t.device)
        if key not in self._tables:
            self._tables[key] = torch.tensor(self.boundaries, dtype=torch.float64).to(t.dtype).to(t.device)
        return self._tables[key]

    def index(self, t: Float[Tensor, " *b"]) -> Int[Tensor, " *b"]:
        """The segment 0 .. K - 1 of each time; a boundary is in the segment that begins there."""
        return torch.searchsorted(self._table(t)[1:-1].contiguous(), t.contiguous(), right=True)

    def start(self, t: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        """Where the segment of each time begins."""
        return self._table(t)[self.index(t)]

    def end(self, t: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        """Where the segment of each time ends: S(t), above t except at t = 1."""
        return self._table(t)[self.index(t) + 1]

    def spans(self, index: Int[Tensor, " *b"]) -> tuple[Float[Tensor, " *b"], Float[Tensor, " *b"]]:
        """Start and end, float32, of the segments ``index``."""
        table = torch.tensor(self.boundaries, dtype=torch.float64, device=index.device).float()
        return table[index], table[index + 1]

    def draw(
        self, n: int, generator: RandomSource | None, *, device: torch.device | str = "cpu", by_length: bool = False
    ) -> Int[Tensor, " n"]:
        """``n`` random segments, all equally likely or in proportion to their lengths."""
        u = uniform((n,), generator, device=device)
        if by_length:
            return self.index(u)
        return (u * len(self)).long().clamp_max(len(self) - 1)

    def check(self, points: Sequence[float] | Tensor, grid: object = "the grid") -> None:
        """Refuse sampling times that step over a boundary.

        Args:
            points: the times of a solve, rising or falling; boundaries outside of their range do not matter.
            grid: what to call it in the error.

        Raises:
            UserError: a boundary between two times.
        """
        times = [float(t) for t in points]
        low, high = min(times), max(times)
        for s in self.boundaries[1:-1]:
            if low < s < high and not any(math.isclose(s, t, rel_tol=0.0, abs_tol=1e-6) for t in times):
                raise UserError(
                    f"{grid} steps over the segment boundary t = {s:g}: take a number of steps that is a multiple of "
                    f"{len(self)} on SegmentGrid(segments={self})"
                )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Segments) and other.boundaries == self.boundaries

    def __hash__(self) -> int:
        return hash(self.boundaries)

    def __repr__(self) -> str:
        equal = Segments(len(self)).boundaries == self.boundaries
        return str(len(self)) if equal else str(list(self.boundaries))


class SegmentGrid(TimeGrid):
    """The same number of equal steps in every segment: all boundaries are among the times.

    Args:
        segments: a number of equal segments, or the boundaries from 0 to 1.
    """

    def __init__(self, segments: int | list[float] = 2) -> None:
        self.segments = Segments(segments)

    def points(self, steps: int) -> Float[Tensor, " n"]:
        """See :class:`TimeGrid`.

        Raises:
            UserError: ``steps`` is no multiple of the number of segments.
        """
        count = len(self.segments)
        if steps < 1 or steps % count:
            raise UserError(f"{self!r} needs a number of steps that is a multiple of {count}, not {steps}")
        each = steps // count
        table = torch.tensor(self.segments.boundaries, dtype=torch.float64)
        inside = torch.arange(each, dtype=torch.float64) / each
        return torch.cat([(table[:-1, None] + table.diff()[:, None] * inside).flatten(), table[-1:]])

    def __repr__(self) -> str:
        return f"SegmentGrid(segments={self.segments!r})"
