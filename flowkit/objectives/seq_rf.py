"""SeqRF: reflow segment by segment, so that each of the teacher's solves is short and each straight piece is easy.

Between the ends of a piece of the teacher's trajectory lies a straight line in x, and its velocity is the target:

    loss = E | v(x_r, r) - (x_{k+1} - x_k) / (s_{k+1} - s_k) |^2,    x_r on the line from x_k to x_{k+1}.

One Euler step a segment is then exact. One segment is reflow; many are flow matching with the teacher's own velocity as
the target. Segments start from noised real data, so a student does not drift with what its teacher generates. Yoon and
Lee 2024, "Sequential Flow Straightening for Generative Modeling" (arXiv 2402.06461).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from flowkit.fields.predictions import Velocity
from flowkit.objectives.segmented import Piece, Segmented
from flowkit.paths.affine import affine
from flowkit.paths.linear import LinearPath
from flowkit.paths.path import Point
from flowkit.tensors import like

__all__ = ["SeqRF"]

_LINE = LinearPath()


class SeqRF(Segmented):
    """Sequential rectified flow: straight pieces between the teacher's states at the boundaries. Sample with a multiple
    of K steps on ``SegmentGrid``; ``times: GridTimes`` distils for one Euler step a segment.

    Args:
        **segmented: see :class:`Segmented`.
    """

    def inside(self, piece: Piece, share: Float[Tensor, " b"]) -> Point:
        """The point on the straight line."""
        line = _LINE.at(piece.x_start, piece.x_end, share)
        v = line.vt / like(piece.end - piece.start, line.vt)
        t = self.time_inside(piece, share)
        if isinstance(self.prediction, Velocity):
            return Point(piece.x_start, piece.x_end, t, line.xt, v)
        # What a network says of another kind is read off (x, v), as a field would read it.
        path = affine(self.path, self.prediction)
        return Point(path.noise(line.xt, v, t), path.data(line.xt, v, t), t, line.xt, v)
