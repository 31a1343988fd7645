"""Rectified Diffusion: what matters about pairs is that they are determined, not that lines are straight.

A trajectory is of *first order* where the data prediction (and so the noise prediction) stands still along it: then

    x_u = (alpha_u / alpha_t) x_t + (sigma_u - sigma_t alpha_u / alpha_t) x0_hat(x_t, t)

holds for all t and u, and one step (DDIM) is exact, whatever the path; it is straight in x on the linear path alone.
Training on a teacher's pairs (x0, x1) on any path, of its own choice, leads there. Wang et al. 2024, "Rectified
Diffusion: Straightness Is Not Your Need in Rectified Flow" (arXiv 2410.07303).

The phased variant asks this of each segment of time only: the teacher carries noised real data to the segment's end,
and the curve between is of first order. It is the line through both states in (x / alpha, sigma / alpha); written as
alpha X1 + sigma X0 through both it divides by no alpha, which is 0 at t = 0:

    X1 = (sigma_e x_s - sigma_s x_e) / w,  X0 = (alpha_s x_e - alpha_e x_s) / w,  w = alpha_s sigma_e - alpha_e sigma_s.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.couplings.coupling import Batch
from flowkit.fields.predictions import DataPrediction, Prediction
from flowkit.objectives.distance import Distance, PseudoHuber
from flowkit.objectives.flow_matching import FlowMatching, squared_error
from flowkit.objectives.segmented import Piece, Segmented
from flowkit.paths.affine import affine
from flowkit.paths.path import Point
from flowkit.solvers.ddim import DDIM
from flowkit.solvers.solver import Solver
from flowkit.tensors import like
from flowkit.times.law import TimeLaw
from flowkit.times.laws import UniformTimes

__all__ = ["PhasedRectifiedDiffusion", "RectifiedDiffusion"]


class RectifiedDiffusion(FlowMatching):
    """Train on a teacher's pairs on any affine path, in the prediction of the data, with a pseudo-Huber loss: the
    student that ``flowkit reflow RUN --task.objective RectifiedDiffusion`` trains. Sample with ``DDIM``.

    Args:
        prediction: what the network predicts; a noise prediction tells little of the data where alpha is near 0.
        distance: what is minimised; None is the square.
        times: the law of training times; away from t = 1, where the data lie in x_t.
        **flow_matching: see :class:`FlowMatching`; ``path`` may be another one than the teacher's.
    """

    def __init__(
        self,
        *,
        prediction: Prediction = DataPrediction(),  # noqa: B008  (stateless)
        distance: Distance | None = PseudoHuber(0.001, over="elements"),  # noqa: B008
        times: TimeLaw = UniformTimes(0.0, 0.98),  # noqa: B008
        **flow_matching: Any,
    ) -> None:
        super().__init__(prediction=prediction, distance=distance, times=times, **flow_matching)
        affine(self.path, type(self).__name__)


class PhasedRectifiedDiffusion(Segmented):
    """First order inside each segment only: a teacher carries noised real data to the segment's end, and the loss is
    that of the state there. Sample with ``DDIM``, a multiple of K steps on ``SegmentGrid``.

    Args:
        prediction: see :class:`RectifiedDiffusion`.
        distance: of the states at the segment's end; None is the square.
        teacher_solver: how the teacher is solved over a segment.
        teacher_steps: its steps in a segment.
        **segmented: see :class:`Segmented`.
    """

    def __init__(
        self,
        *,
        prediction: Prediction = DataPrediction(),  # noqa: B008  (stateless)
        distance: Distance | None = PseudoHuber(0.001, over="elements"),  # noqa: B008
        teacher_solver: Solver = DDIM(),  # noqa: B008
        teacher_steps: int = 10,
        **segmented: Any,
    ) -> None:
        super().__init__(
            prediction=prediction,
            distance=distance,
            teacher_solver=teacher_solver,
            teacher_steps=teacher_steps,
            **segmented,
        )
        affine(self.path, type(self).__name__)

    def inside(self, piece: Piece, share: Float[Tensor, " b"]) -> Point:
        """The point on the first-order curve through both ends."""
        path, t = affine(self.path, type(self).__name__), self.time_inside(piece, share)
        # In float64: w is a difference of products.
        alpha_s, sigma_s, _, _ = path.coefficients(piece.start.double())
        alpha_e, sigma_e, _, _ = path.coefficients(piece.end.double())
        first = piece.start == 0  # sampling starts from x0 itself, also on paths whose alpha is not quite 0 there
        alpha_s, sigma_s = torch.where(first, 0.0, alpha_s), torch.where(first, 1.0, sigma_s)
        w, x_s, x_e = alpha_s * sigma_e - alpha_e * sigma_s, piece.x_start, piece.x_end
        x1 = like(sigma_e / w, x_s) * x_s - like(sigma_s / w, x_s) * x_e
        x0 = like(alpha_s / w, x_s) * x_e - like(alpha_e / w, x_s) * x_s
        return path.at(x0, x1, t)

    def error_at(
        self, output: Float[Tensor, "b *d"], x: Float[Tensor, "b *d"], point: Point, batch: Batch
    ) -> Float[Tensor, " b"]:
        """The error of the state at the segment's end, where the first-order step from ``x`` lands."""
        path, end = affine(self.path, type(self).__name__), self.segments.end(point.t)
        v = self.prediction.to_velocity(output, x, point.t, path)
        alpha, sigma, _, _ = path.coefficients(end)
        landed = like(alpha, x) * path.data(x, v, point.t) + like(sigma, x) * path.noise(x, v, point.t)
        target = like(alpha, x) * point.x1 + like(sigma, x) * point.x0
        if self.distance is None:
            return squared_error(landed, target, batch.loss_mask, self.reduce)
        return self.distance(landed, target, batch.loss_mask)
