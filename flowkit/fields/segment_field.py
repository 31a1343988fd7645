"""A field that was trained segment by segment of the time axis, and jumps at the boundaries."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.cond import Cond
from flowkit.fields.field import Evaluation, Field
from flowkit.fields.predictions import Prediction
from flowkit.nn.network import Network
from flowkit.paths.path import Path
from flowkit.times.segments import Segments

__all__ = ["SegmentField"]


class SegmentField(Field):
    """A network that is told the segment of its time: where the segment begins is its second time.

    A boundary belongs to the segment that begins there. :meth:`within` gives the field of one segment, its end
    included, for steps that look at their own end.

    Args:
        network: takes one state, and two times, or one where it is not told.
        path: the path it was trained on.
        prediction: what its head ``v`` means.
        segments: where time is cut.
        only: the number of the one segment that all times belong to, or None.
    """

    def __init__(
        self, network: Network, path: Path, prediction: Prediction, segments: Segments, *, only: int | None = None
    ) -> None:
        self.network, self.prediction, self.segments, self.only = network, prediction, segments, only
        self.path = path

    def within(self, segment: int) -> SegmentField:
        """The field of segment number ``segment``, at any time."""
        return SegmentField(self.network, self.path, self.prediction, self.segments, only=segment)  # pyright: ignore[reportArgumentType]

    def __call__(self, x: Float[Tensor, "b *d"], t: Float[Tensor, " b"], cond: Cond | None = None) -> Evaluation:
        """The velocity at (x, t)."""
        times = (t,)
        if self.network.spec.times > 1:
            start = self.segments.start(t) if self.only is None else _all(t, self.segments.boundaries[self.only])
            times = (t, start)
        output = self.network((x,), times, Cond() if cond is None else cond)["v"]
        assert self.path is not None
        return Evaluation(self.prediction.to_velocity(output, x, t, self.path))

    def __repr__(self) -> str:
        only = "" if self.only is None else f", only={self.only}"
        return f"SegmentField({type(self.network).__name__}, {self.path!r}, segments={self.segments!r}{only})"


def _all(t: Tensor, value: float) -> Tensor:
    return torch.full_like(t, value)
