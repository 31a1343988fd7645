"""Points of the plane as parameters, each distilled from a teacher: the smallest case of distillation into shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from domains.distill3d.distillation import distillation_gradient, pull
from domains.distill3d.teachers import DistilTeacher
from flowkit.couplings.coupling import Batch
from flowkit.data import RawBatch, Samples
from flowkit.errors import UserError
from flowkit.objectives.objective import Loss, Networks
from flowkit.objectives.own_loss import OwnLoss
from flowkit.points import scatter
from flowkit.random import RandomSource, Rows, mix_seed, normal, uniform
from flowkit.solvers.controllers import FixedSteps
from flowkit.solvers.rk4 import RK4
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.solve import solve
from flowkit.tasks import Presentation, Task

_NOISE, _ODE_STEPS = 0xCFD, 200


class PointDistillation(Task):
    """Optimise points; there is no data, no path of pairs and no network, only the teacher's field.

    The loss is a sum over the points, so a learning rate means the same for any number of them; use plain ``SGD``,
    ``ema: 0`` and ``clip: 0`` (moments of Adam distort the flow that is followed).

    Args:
        teacher: whose law the points shall follow.
        count: of points, as many as the data has instances.
        noise: ``fixed``: each point keeps its noise, ``fresh``: it is redrawn at each step.
        times: ``annealed``: t rises from ``first`` to ``last`` over the steps, ``random``: uniform between them.
        steps: of the annealing, the trainer's.
        first, last: times in (0, 1); near 1 the estimate is the rendering itself.
        spread: deviation of the points at the beginning.
        seed: of the fixed noise.

    ``fixed`` and ``annealed`` together are consistent flow distillation, ``fresh`` and ``random`` are score
    distillation.

    Raises:
        UserError: a number out of its range.
    """

    noise_of: Tensor

    def __init__(
        self,
        teacher: DistilTeacher,
        *,
        count: int = 4000,
        noise: Literal["fixed", "fresh"] = "fixed",
        times: Literal["annealed", "random"] = "annealed",
        steps: int = 300,
        first: float = 0.02,
        last: float = 0.98,
        spread: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if noise not in ("fixed", "fresh") or times not in ("annealed", "random"):
            raise UserError(f"noise={noise!r}, times={times!r}: known are fixed and fresh, annealed and random")
        if not 0.0 < first < last < 1.0 or count < 1 or steps < 1 or spread < 0.0:
            raise UserError(
                f"PointDistillation: first {first:g} < last {last:g} must lie inside (0, 1), count {count} and steps "
                f"{steps} be at least 1, spread {spread:g} not be negative"
            )
        self.objective, self.networks = OwnLoss(), Networks({})
        self.teacher, self.noise, self.times, self.steps = teacher, noise, times, steps
        self.first, self.last = first, last
        draws = torch.Generator().manual_seed(mix_seed(seed, _NOISE))
        self.register_buffer("noise_of", normal((count, *teacher.shape), draws))
        self.points = nn.Parameter(spread * normal((count, *teacher.shape), draws))

    def prepare(self, raw: RawBatch, generator: RandomSource | None = None) -> Batch:
        """The points asked for, as x1; only presentations need it."""
        return Batch(x1=self.points[raw["instance"]].detach())

    def time(self, step: int) -> float:
        """t of an annealed training at ``step``."""
        return self.first + (self.last - self.first) * min(step / max(self.steps - 1, 1), 1.0)

    def forward(
        self, raw: RawBatch, *, phase: str = "main", step: int = 0, generator: RandomSource | None = None
    ) -> Loss:
        """The terms ``distillation`` (b,); their *sum* is the loss.

        Raises:
            UserError: the data has instances that the task has no points for.
        """
        rows = raw["instance"]
        if int(rows.max()) >= len(self.points):
            raise UserError(
                f"task.init_args.count is {len(self.points)}, and the data has instance {int(rows.max())}: set "
                "data.init_args.count to it"
            )
        x = self.points[rows]
        noise = self.noise_of[rows] if self.noise == "fixed" else normal(tuple(x.shape), generator, device=x.device)
        if self.times == "annealed":
            t = torch.full(x.shape[:1], self.time(step), device=x.device)
        else:
            share = uniform((len(x),), generator, device=x.device)
            t = self.first + (self.last - self.first) * share
        # The teacher computes in the precision of its own parameters.
        gradient = distillation_gradient(self.teacher.field(), self.teacher.path, x.detach(), noise, t)
        terms = pull(x, gradient.to(x.dtype))
        return Loss(terms.sum(), {"distillation": terms})

    @torch.no_grad()
    def trajectory_ends(self) -> Float[Tensor, "n *d"]:
        """Where the teacher's own flow leads each point's noise: what consistent distillation should find."""
        start = self.teacher.path.start(self.noise_of, self.prepare({"instance": slice(None)}).cond)
        return solve(self.teacher.field(), start, solver=RK4(), controller=FixedSteps(_ODE_STEPS)).x

    @torch.no_grad()
    def evaluate(
        self, samples: Samples, *, sampler: Sampler, seed: int = 0, limit: int | None = None
    ) -> dict[str, float]:
        """``weight_error``: largest error of a mode's share of the points; ``largest``: share of the fullest mode;
        ``correlation`` of the points with the ends of the teacher's flow; ``spread`` about their modes."""
        places, weights = (value.to(self.device) for value in self.teacher.modes())
        x = self.points.detach().double()
        distance = (x[:, None] - places.double()).flatten(2).square().sum(2)
        nearest = distance.argmin(1)
        share = torch.bincount(nearest, minlength=len(weights)).double() / len(x)
        ends = self.trajectory_ends().double()
        pair = torch.stack([x.flatten(), ends.flatten()])
        return {
            "weight_error": float((share - weights.double()).abs().max()),
            "largest": float(share.max()),
            "correlation": float(torch.corrcoef(pair)[0, 1]),
            "spread": float((distance.gather(1, nearest[:, None]).mean() / x[0].numel()).sqrt()),
        }

    def present(self, samples: Samples, *, sampler: Sampler, seed: int = 0) -> Mapping[str, Presentation]:
        """The points beside the ends of the teacher's flow."""
        return {"points": scatter({"distilled": self.points.detach(), "teacher's flow": self.trajectory_ends()})}

    def sample(
        self, n: int, *, sampler: Sampler, seed: int = 0, request: Mapping[str, Any] | None = None
    ) -> Mapping[str, Presentation]:
        """A picture of ``n`` of the points."""
        return {"points": scatter({"distilled": self.pipeline(sampler)(n, seed=seed)})}

    def pipeline(self, sampler: Sampler) -> DistilledPoints:
        """What ``flowkit.load`` gives: ``pipeline(n, seed=0)``."""
        return DistilledPoints(self)


class DistilledPoints:
    """Draws among the points that were distilled."""

    def __init__(self, task: PointDistillation) -> None:
        self.task = task

    def __call__(self, n: int, *, seed: int = 0) -> Float[Tensor, "n *d"]:
        """``n`` of them, drawn with replacement."""
        points = self.task.points.detach()
        rows = uniform((n,), Rows(mix_seed(seed), total=n), device=points.device) * len(points)
        return points[rows.long().clamp_max(len(points) - 1)]
