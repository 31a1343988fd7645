"""What students share that learn a trained flow segment by segment of the time axis.

Segment k = [s_k, s_{k+1}): the state x_k = alpha x1 + sigma x0 at its start is made of real data and fresh noise, and
the frozen teacher carries it to the end of the segment, x_{k+1}. What lies between is for the subclass to say. The
optimal field of the student jumps at every boundary, which a network with smooth times blurs exactly where an Euler
step looks: so the network is told where its segment begins, as a second time.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.cond import Cond
from flowkit.couplings.coupling import Batch
from flowkit.errors import UserError
from flowkit.fields.field import Field
from flowkit.fields.segment_field import SegmentField
from flowkit.nn.network import NetworkSpec
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.objective import Networks
from flowkit.paths.path import Point
from flowkit.random import RandomSource
from flowkit.solvers.controllers import FixedSteps
from flowkit.solvers.rk4 import RK4
from flowkit.solvers.solve import solve
from flowkit.solvers.solver import Solution, Solver, Status
from flowkit.times.segments import Segments

if TYPE_CHECKING:
    from flowkit.objectives.teacher import Teacher
    from flowkit.solvers.sampler import Sampler

__all__ = ["Piece", "Segmented"]


@dataclass(frozen=True)
class Piece:
    """A stretch of the teacher's trajectory for each row: states at the ``start`` and ``end`` (b,) of its segment."""

    start: Float[Tensor, " b"]
    end: Float[Tensor, " b"]
    x_start: Float[Tensor, "b *d"]
    x_end: Float[Tensor, "b *d"]


class Segmented(FlowMatching):
    """Learns the teacher piece by piece; a subclass writes :meth:`inside`.

    Args:
        segments: a number of equal segments, or their boundaries from 0 to 1.
        by_length: draw segments in proportion to their lengths, instead of all alike.
        segment_input: tell the network where its segment begins, as a second time. Without it the student is hardly
            better than its teacher: the jumps of the field are blurred.
        teacher_solver: how the teacher is solved over a segment.
        teacher_steps: its steps in a segment.
        **flow_matching: see :class:`FlowMatching`; ``times`` is the law of the place inside a segment, from 0 at its
            start to 1.
    """

    needs_teacher = True

    def __init__(
        self,
        *,
        segments: int | list[float] = 4,
        by_length: bool = False,
        segment_input: bool = True,
        teacher_solver: Solver = RK4(),  # noqa: B008  (stateless; recipes read the default from this line)
        teacher_steps: int = 2,
        **flow_matching: Any,
    ) -> None:
        super().__init__(**flow_matching)
        if teacher_steps < 1:
            raise UserError(f"{type(self).__name__}: teacher_steps must be at least 1, got {teacher_steps}")
        self.segments, self.by_length, self.segment_input = Segments(segments), by_length, segment_input
        self.teacher_solver, self.teacher_steps = teacher_solver, teacher_steps

    @property
    def independent_gaussian(self) -> bool:
        """Never: a straightened field holds no score."""
        return False

    @property
    def capturable(self) -> bool:
        """Solvers may look at the host."""
        return False

    def needs(self) -> dict[str, NetworkSpec]:
        """One network, of a second time where it is told the segment."""
        return {"main": NetworkSpec(times=2 if self.segment_input else 1), **self.coupling.needs()}

    # --- training ---------------------------------------------------------------------------------------------------

    def taught(self) -> Teacher:
        """The teacher.

        Raises:
            UserError: there is none, its field cannot be solved, or its states at the boundaries follow another law
                than ours.
        """
        if self.teacher is None:
            raise UserError(
                f"{type(self).__name__} learns from a trained flow, and none was given: say teacher: RUN in the recipe"
            )
        guide = self.teacher.objective
        if not guide.solvable:
            raise UserError(
                f"{type(self).__name__} solves its teacher's field, and {type(guide).__name__} has none that can be "
                "solved: take a FlowMatching run as the teacher"
            )
        for part in ("path", "source"):
            mine, its = getattr(self, part), getattr(guide, part, None)
            if len(self.segments) > 1 and its is not None and repr(its) != repr(mine):
                raise UserError(
                    f"{type(self).__name__} starts its segments from the {part} {mine!r}, and its teacher was trained "
                    f"with {its!r}: set objective.{part} to that"
                )
        return self.teacher

    @torch.no_grad()
    def carry(
        self, x: Float[Tensor, "b *d"], start: Float[Tensor, " b"], end: Float[Tensor, " b"], cond: Cond
    ) -> Float[Tensor, "b *d"]:
        """The teacher's solution from ``start`` to ``end``, which may differ by row."""
        field, solver, steps = self.taught().field(), self.teacher_solver, self.teacher_steps
        if len(self.segments) == 1:  # all rows share their times: exactly what pairs are made with
            return solve(field, x, solver=solver, controller=FixedSteps(steps), cond=cond).x
        memory = last = None
        for i in range(steps):
            t0 = start + (end - start) * (i / steps)
            t1 = start + (end - start) * ((i + 1) / steps) if i + 1 < steps else end
            first = field(x, t0, cond) if last is None else last
            memory = solver.start(t0, x, first) if i == 0 else memory
            step = solver.step(field, t0, t1, x, first, memory, cond, estimate=False)
            x, memory, last = step.x, step.memory, step.last
        return x

    def draw(
        self, batch: Batch, generator: RandomSource | None, networks: Networks | None = None
    ) -> tuple[Batch, Point, Tensor, dict[str, Tensor]]:
        """A segment and a place in it for each row, and the point there; see :class:`FlowMatching`."""
        batch, terms = self.pair(batch, generator, networks)
        assert batch.x0 is not None
        assert batch.x1 is not None
        x0, x1 = batch.x0, batch.x1
        index = self.segments.draw(x1.shape[0], generator, device=x1.device, by_length=self.by_length)
        start, end = (t.to(x1.dtype) if x1.dtype == torch.float64 else t for t in self.segments.spans(index))
        at_start = (index == 0).reshape(-1, *[1] * (x1.ndim - 1))
        x_start = torch.where(at_start, self.path.start(x0, batch.cond), self.path.at(x0, x1, start).xt)
        x_start = batch.cond.real(x_start)
        piece = Piece(start, end, x_start, self.carry(x_start, start, end, batch.cond))
        times = self.times.draw(x1.shape[0], self.path, generator, device=x1.device)
        return batch, self.inside(piece, times.t.to(start)), times.weight, terms

    def time_inside(self, piece: Piece, share: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The time at ``share`` of a segment: below its end, which is the next segment's."""
        t = piece.start + share * (piece.end - piece.start)
        return torch.minimum(t, torch.nextafter(piece.end, torch.zeros_like(t)))

    def record(self, t: Float[Tensor, " b"], error: Float[Tensor, " b"]) -> None:
        """See :class:`FlowMatching`; ``times`` is the law of the share of a segment."""
        start = self.segments.start(t)
        super().record((t - start) / (self.segments.end(t) - start), error)

    @abstractmethod
    def inside(self, piece: Piece, share: Float[Tensor, " b"]) -> Point:
        """The point at ``share`` of each row's segment, and what its velocity should be."""

    def output(
        self, networks: Networks, x: Float[Tensor, "b *d"], t: Float[Tensor, " b"], cond: Cond
    ) -> Float[Tensor, "b *d"]:
        """What the network puts out at (x, t), told its segment."""
        times = (t, self.segments.start(t)) if self.segment_input else (t,)
        return networks.main((x,), times, cond)["v"]

    # --- sampling ---------------------------------------------------------------------------------------------------

    def field(self, networks: Networks) -> SegmentField:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The trained field, of all segments."""
        return SegmentField(networks.main, self.path, self.prediction, self.segments)

    def check_sampler(self, sampler: Sampler, span: tuple[float, float] = (0.0, 1.0)) -> None:
        """See :class:`Objective`: a grid must hold the boundaries."""
        plan = sampler.stepping().plan(span)
        if plan is not None:
            self.segments.check(plan, f"{type(self).__name__}: {sampler.steps} steps on {sampler.grid!r}")

    def generate(
        self,
        networks: Networks,
        like: Float[Tensor, "b *d"],
        cond: Cond,
        *,
        sampler: Sampler,
        x0: Tensor | None = None,
        span: tuple[float, float] = (0.0, 1.0),
        generator: RandomSource | None = None,
        hooks: Sequence[Callable[..., Any]] = (),
    ) -> Solution:
        """Solve each segment by itself, with its own field, its ends included; see :class:`Objective`. Steps are
        numbered anew in each for ``hooks``.

        Raises:
            UserError: as :class:`FlowMatching`, and a grid that steps over a boundary.
        """
        self.check_sampler(sampler, span)
        state = self.beginning(like, cond, sampler=sampler, x0=x0, start=span[0], generator=generator)
        controller = sampler.stepping()
        plan = controller.plan(span)
        low, high = min(span), max(span)
        cuts = [low, *(s for s in self.segments.boundaries if low < s < high), high]
        pieces = list(pairwise(cuts))
        if span[1] < span[0]:
            pieces = [(b, a) for a, b in reversed(pieces)]
        result: Solution | None = None
        for a, b in pieces:
            middle = torch.tensor([0.5 * (a + b)], dtype=torch.float64)
            field: Field = self.field(networks).within(int(self.segments.index(middle)))
            field = field if sampler.guidance is None else sampler.guidance.apply(field)
            found = solve(
                field, state, solver=sampler.solver, controller=controller if plan is None else _Given(plan, a, b),
                span=(a, b), cond=cond, max_evaluations=sampler.max_evaluations, generator=generator, hooks=hooks,
            )  # fmt: skip
            state = found.x
            result = found if result is None else _joined(result, found)
        assert result is not None
        return result


class _Given(FixedSteps):
    """The times of ``plan`` that lie between two boundaries, which belong to both."""

    def __init__(self, plan: Sequence[float], a: float, b: float) -> None:
        inside = [t for t in plan if min(a, b) + 1e-6 < t < max(a, b) - 1e-6]
        super().__init__(len(inside) + 1)
        self._plans[(a, b)] = (a, *inside, b)


def _joined(one: Solution, two: Solution) -> Solution:
    """Two solves, the second from where the first ended; a sample that did not arrive keeps its first reason."""
    arrived = one.status == Status.OK
    return Solution(
        x=two.x,
        evaluations=one.evaluations + two.evaluations,
        network_calls=one.network_calls + two.network_calls,
        accepted=one.accepted + two.accepted,
        rejected=one.rejected + two.rejected,
        status=torch.where(arrived, two.status, one.status),
        stopped_at=torch.where(arrived, two.stopped_at, one.stopped_at),
    )
