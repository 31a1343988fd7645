"""Consistency flow matching: within a segment of time, every velocity points at the same end.

Time is cut at 0 = s_0 < ... < s_K = 1; S(t) is the end of the segment of t. With f(x, t) = x + (S(t) - t) v(x, t), two
times t < r = t + delta of one segment on the same straight line must agree on its end:

    L = E |f(x_t, t) - sg f(x_r, r)|^2 + alpha |v(x_t, t) - sg v(x_r, r)|^2.

Where r >= b, the target is the line's true end x_S instead, and the second term is dropped. b = 0 is flow matching with
the weight (S - t)^2, since f - x_S = (S - t) (v - (x1 - x0)); b = 0.9 anchors the last tenth of time in data, and what
is learnt there wanders back. At the fixed point v is the mean velocity to the end of the segment, so one Euler step a
segment is exact. Yang et al. 2024, "Consistency Flow Matching" (arXiv 2407.02398).

Both differences are formed without cancellation: x_r - x_t = (r - t) (x1 - x0) on the line, so

    f(x_t, t) - f(x_r, r) = (S - t) v(x_t, t) - [(r - t) (x1 - x0) + (S - r) v(x_r, r)].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from flowkit.couplings.coupling import Batch
from flowkit.errors import UserError
from flowkit.fields.predictions import Velocity
from flowkit.nn.equal_dropout import EqualDropout
from flowkit.nn.network import NetworkSpec
from flowkit.objectives.flow_matching import FlowMatching, squared_error
from flowkit.objectives.objective import Loss, Networks
from flowkit.paths.linear import LinearPath
from flowkit.random import RandomSource
from flowkit.solvers.euler import Euler
from flowkit.tensors import like
from flowkit.times.segments import Segments

if TYPE_CHECKING:
    from flowkit.solvers.sampler import Sampler

__all__ = ["ConsistencyFM"]


class ConsistencyFM(FlowMatching):
    """Consistency flow matching: velocities that point at the end of their segment, so that an Euler step for each is
    enough; trained from scratch or on pairs.

    Args:
        segments: a number K of equal segments, or their boundaries from 0 to 1. Sample with a multiple of K steps.
        delta: distance of the two times; clamped to the end of the segment. 1e-3 in the paper, 1e-2 for small networks:
            gradients of consistency shrink with it, those of the anchor do not.
        alpha: weight of the velocity term.
        boundary: b, from which time on data anchor the target, once the first stage is over.
        anchored_steps: length of the first stage, in which data anchor all times (b = 0); about half of the training.
        target: whose velocity is the target at r: the network's own (``self``), or that of an average of its weights
            (``ema``, a second copy in memory). Both see the dropout masks of the first call.
        target_decay: of that average, per step, with a warm-up.
        **flow_matching: see :class:`FlowMatching`. The path is linear, the prediction the velocity.

    Raises:
        UserError: a number out of its range, or another path or prediction.
    """

    solvable = False

    def __init__(
        self,
        *,
        segments: int | list[float] = 2,
        delta: float = 1e-3,
        alpha: float = 1e-5,
        boundary: float = 0.9,
        anchored_steps: int = 0,
        target: Literal["self", "ema"] = "self",
        target_decay: float = 0.999,
        **flow_matching: Any,
    ) -> None:
        super().__init__(**flow_matching)
        if not 0.0 < delta < 1.0 or alpha < 0.0 or anchored_steps < 0:
            raise UserError(
                f"ConsistencyFM: delta={delta:g} must lie in (0, 1), alpha={alpha:g} and "
                f"anchored_steps={anchored_steps} must not be negative"
            )
        if not 0.0 <= boundary <= 1.0 or not 0.0 <= target_decay < 1.0:
            raise UserError(
                f"ConsistencyFM: boundary={boundary:g} must lie in [0, 1], target_decay={target_decay:g} in [0, 1)"
            )
        if target not in ("self", "ema"):
            raise UserError(f"ConsistencyFM: target={target!r}: known are self and ema")
        if not isinstance(self.path, LinearPath) or type(self.prediction) is not Velocity:
            raise UserError(
                f"ConsistencyFM goes straight to the end of a segment: it needs LinearPath and Velocity, not "
                f"{type(self.path).__name__} and {type(self.prediction).__name__}"
            )
        self.segments = Segments(segments)
        self.delta, self.alpha, self.boundary, self.anchored_steps = delta, alpha, boundary, anchored_steps
        self.target: Literal["self", "ema"] = target
        self.target_decay = target_decay

    @property
    def independent_gaussian(self) -> bool:
        """False: mean velocities hold no score."""
        return False

    @property
    def capturable(self) -> bool:
        """See :class:`flowkit.objectives.objective.Objective`; the stages differ."""
        return False

    def needs(self) -> dict[str, NetworkSpec]:
        """The main network, and with ``target: ema`` one that follows it."""
        others = {"target": NetworkSpec(follows="main", training_only=True)} if self.target == "ema" else {}
        return {**super().needs(), **others}

    def boundary_at(self, step: int) -> float:
        """b at a training step: 0 in the first stage."""
        return 0.0 if step < self.anchored_steps else self.boundary

    def loss(
        self,
        networks: Networks,
        batch: Batch,
        *,
        phase: str = "main",
        step: int = 0,
        generator: RandomSource | None = None,
    ) -> Loss:
        """The terms ``flow``, the squared difference of the ends, and in the second stage ``velocity``."""
        batch, point, weight, terms = self.draw(batch, generator, networks)
        t, end, boundary = point.t, self.segments.end(point.t), self.boundary_at(step)
        dropout = EqualDropout(point.xt.device)
        v = networks.main((batch.cond.real(point.xt),), (t,), batch.cond)["v"].to(point.vt.dtype)
        left = like(end - t, v)
        if batch.weight is not None:
            weight = weight * batch.weight
        if boundary <= 0.0:
            error = squared_error(left * v, left * point.vt, batch.loss_mask, self.reduce)
            return self._told(networks, t, error, {"flow": weight.to(error) * error, **terms})

        r = torch.minimum(t + self.delta, end)
        xr = self.path.at(point.x0, point.x1, r).xt
        follower = networks.main if self.target == "self" else networks["target"]
        with torch.no_grad(), dropout:
            later = follower((batch.cond.real(xr),), (r,), batch.cond)["v"].to(v.dtype)
        anchored = r >= boundary
        step_on = like(r - t, v) * point.vt + like(end - r, v) * later
        goal = torch.where(anchored.reshape(left.shape), left * point.vt, step_on)
        error = squared_error(left * v, goal, batch.loss_mask, self.reduce)
        pull = squared_error(v, later, batch.loss_mask, self.reduce)
        pull = pull.where(~anchored & (end - t > 1.01 * self.delta), pull.new_zeros(()))
        weight = weight.to(error)
        return self._told(networks, t, error, {"flow": weight * error, "velocity": self.alpha * weight * pull, **terms})

    def _told(self, networks: Networks, t: Tensor, error: Tensor, terms: dict[str, Tensor]) -> Loss:
        if networks.main.training:
            self.times.record(t, error.detach())
        return self.total(terms)

    def after_step(self, networks: Networks, step: int) -> None:
        """Move the target towards the network."""
        if self.target == "ema":
            networks.follow("target", 1.0 - min(self.target_decay, (1 + step) / (10 + step)))

    def check_sampler(self, sampler: Sampler, span: tuple[float, float] = (0.0, 1.0)) -> None:
        """Euler steps forward in time, with every boundary of a segment among their times.

        Raises:
            UserError: anything else.
        """
        if not isinstance(sampler.solver, Euler):
            raise UserError(
                f"ConsistencyFM learns mean velocities to the ends of its segments, which "
                f"{type(sampler.solver).__name__} would take for a field: set sampler.solver: Euler"
            )
        plan = sampler.stepping().plan(span)
        if plan is None or span[1] < span[0]:
            raise UserError(
                f"ConsistencyFM steps forward on a grid that holds the boundaries of its {len(self.segments)} "
                "segments: take no controller, and a span that rises"
            )
        grid = f"{len(plan) - 1} steps on {sampler.grid!r}" if sampler.controller is None else repr(sampler.controller)
        self.segments.check(plan, grid)
