"""EulerFlow: one network for a whole sequence of point clouds, whose flow carries each cloud onto the next ones.

Vedder et al. 2024, "Neural Eulerian Scene Flow Fields" (arXiv 2410.02031). Time is physical and counts frames; there is
no noise, no data distribution and no path: the core gives its solvers (any span, both directions) and its trainer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from domains.sceneflow.chamfer import truncated_chamfer
from domains.sceneflow.field import SceneField, SceneNetwork
from flowkit.couplings.coupling import Batch
from flowkit.data import DataSource, RawBatch, Samples
from flowkit.errors import UserError
from flowkit.objectives.objective import Loss, Networks
from flowkit.objectives.own_loss import OwnLoss
from flowkit.points import scatter
from flowkit.random import RandomSource
from flowkit.solvers.controllers import FixedSteps
from flowkit.solvers.euler import Euler
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.save import Save
from flowkit.solvers.solve import solve
from flowkit.solvers.solver import Solution
from flowkit.tasks import Presentation, Task


class EulerFlowTask(Task):
    """Fit a field to a sequence, without labels.

    Per window of frames, summed over its anchors and both directions: the truncated Chamfer distance of the cloud,
    carried ``1`` and ``reach`` frames along, to the clouds it meets; a hinge on speeds beyond ``fastest``; and
    ``cycle`` times how far forward and back again end from where they began.

    Args:
        network: the field's.
        length: frames of the sequence.
        reach: frames of the long rollouts, 1 for none.
        cut: squared distance from which points count as lost, square metres.
        fastest: metres a frame.
        cycle: weight of the cycle: 0.01 as the paper says, 1.0 as the released code amounts to.
        frozen_time: in rollouts the network sees the anchor's time throughout, as the released code does; False
            integrates the field that is learnt.

    Raises:
        UserError: a number out of its range.
    """

    def __init__(
        self,
        network: SceneNetwork,
        *,
        length: int,
        reach: int = 3,
        cut: float = 2.0,
        fastest: float = 6.0,
        cycle: float = 0.01,
        frozen_time: bool = False,
    ) -> None:
        super().__init__()
        if length < 2 or reach < 1 or not cut > 0 or not fastest > 0 or cycle < 0:
            raise UserError(
                f"EulerFlowTask: length {length} must be at least 2, reach {reach} at least 1, cut {cut:g} and fastest "
                f"{fastest:g} positive, cycle {cycle:g} not negative"
            )
        self.objective, self.networks = OwnLoss(), Networks({})
        self.network, self.length, self.reach = network, length, reach
        self.cut, self.fastest, self.cycle, self.frozen_time = cut, fastest, cycle, frozen_time
        # The first frame, to draw tracks of.
        self.register_buffer("example", torch.zeros(_TRACKS, 3))

    example: Tensor

    def adapt(self, data: DataSource) -> None:
        """Check the sequence's length; keep points of its first frame.

        Raises:
            UserError: the data's length is another.
        """
        length = int(data.statistics()["length"])
        if length != self.length:
            raise UserError(
                f"task.init_args.length is {self.length}, the data has {length} frames: set one to the other"
            )
        first = data.split("train").batch([0])["frames"][0, 0]
        self.example.copy_(first[torch.arange(_TRACKS) % len(first)])

    def prepare(self, raw: RawBatch, generator: RandomSource | None = None) -> Batch:
        """The first clouds of the windows, as x1; the loss reads the windows themselves."""
        return Batch(x1=raw["frames"][:, 0])

    def field(self, direction: int = 1, frozen: float | None = None) -> SceneField:
        """The velocity field for solves in a direction of time."""
        return SceneField(self.network, self.length, direction, frozen)

    def carry(
        self, points: Float[Tensor, "n 3"], frame: float | int, frames: int, *, save: Any = Save.STEPS, steps: int = 1
    ) -> Solution:
        """Points at a frame's time carried ``frames`` frames on (negative: back), ``steps`` Euler steps each."""
        direction = 1 if frames > 0 else -1
        field = self.field(direction, float(frame) if self.frozen_time else None)
        return solve(
            field, points, solver=Euler(), controller=FixedSteps(abs(frames) * steps),
            span=(float(frame), float(frame + frames)), save=save,
        )  # fmt: skip

    # --- the loss ---------------------------------------------------------------------------------------------------

    def forward(
        self, raw: RawBatch, *, phase: str = "main", step: int = 0, generator: RandomSource | None = None
    ) -> Loss:
        """Mean over the windows of their sums; the terms ``near``, ``far``, ``speed`` and ``cycle``."""
        windows = [self.window(frames, int(first)) for frames, first in zip(raw["frames"], raw["first"], strict=True)]
        terms = {name: torch.stack([window[name] for window in windows]) for name in windows[0]}
        return Loss(torch.stack([term.mean() for term in terms.values()]).sum(), terms)

    def window(self, frames: Float[Tensor, "w n 3"], first: int) -> dict[str, Float[Tensor, ""]]:
        """The terms of one window that begins with the frame ``first``."""
        zero = frames.new_zeros(())
        terms = {"near": zero, "far": zero, "speed": zero, "cycle": zero}
        for anchor in range(len(frames)):
            for direction in (1, -1):
                for reach in sorted({1, self.reach}):
                    if not 0 <= anchor + direction * reach < len(frames):
                        continue
                    states = self.carry(frames[anchor], first + anchor, direction * reach).xs
                    assert states is not None
                    cost = zero
                    for j in range(1, reach + 1):
                        cost = cost + truncated_chamfer(states[j], frames[anchor + direction * j], self.cut)
                    if reach > 1:
                        terms["far"] = terms["far"] + cost
                        continue
                    terms["near"] = terms["near"] + cost
                    beyond = ((states[1] - states[0]).norm(dim=1) - self.fastest).relu()
                    terms["speed"] = terms["speed"] + beyond.mean() + 0.5 * beyond.square().mean()
                    if direction == 1 and self.cycle:
                        back = self.carry(states[1], first + anchor + 1, -1).x
                        # The root has no gradient at 0.
                        away = ((back - frames[anchor]).square().sum(1) + 1e-12).sqrt()
                        terms["cycle"] = terms["cycle"] + self.cycle * away.sigmoid().mean()
        return terms

    # --- judging ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(
        self, samples: Samples, *, sampler: Sampler, seed: int = 0, limit: int | None = None
    ) -> dict[str, float]:
        """``epe``: mean error of the flow of first frames, metres; ``normalised``: over the true speed (a flow of 0 has
        1)."""
        errors, speeds = [], []
        for index in range(min(len(samples), limit or len(samples))):
            raw = samples.batch([index])
            points, true = raw["frames"][0, 0].to(self.device), raw["flow"][0, 0].to(self.device)
            flow = self.carry(points, float(raw["first"][0]), 1).x - points
            errors.append((flow - true).norm(dim=1).mean())
            speeds.append(true.norm(dim=1).mean())
        error, speed = float(torch.stack(errors).mean()), float(torch.stack(speeds).mean())
        return {"epe": error, "normalised": error / max(speed, 1e-12)}

    def present(self, samples: Samples, *, sampler: Sampler, seed: int = 0) -> Mapping[str, Presentation]:
        """Tracks seen from above."""
        return self.sample(_TRACKS, sampler=sampler, seed=seed)

    @torch.no_grad()
    def sample(
        self, n: int, *, sampler: Sampler, seed: int = 0, request: Mapping[str, Any] | None = None
    ) -> Mapping[str, Presentation]:
        """Tracks of up to ``n`` points of the first frame through the whole sequence, seen from above."""
        tracks = self.pipeline(sampler)(self.example[: min(n, _TRACKS)], 0, self.length - 1)
        return {"tracks": scatter({"first frame": tracks[0], "tracks": tracks.flatten(0, 1), "end": tracks[-1]})}

    def pipeline(self, sampler: Sampler) -> SceneTracker:
        """What ``flowkit.load`` gives: ``tracker(points, frame, frames)``."""
        return SceneTracker(self)


_TRACKS = 200


class SceneTracker:
    """Carries points through the sequence that a field was fitted to."""

    def __init__(self, task: EulerFlowTask) -> None:
        self.task = task.eval()

    @torch.no_grad()
    def __call__(
        self, points: Float[Tensor, "n 3"], frame: float | int, frames: int, *, steps: int = 1
    ) -> Float[Tensor, "k n 3"]:
        """States of ``points`` (metres, at the time of ``frame``) after each step; ``frames`` may be negative.

        Raises:
            UserError: no step is asked for.
        """
        if not frames or steps < 1:
            raise UserError(f"frames {frames} and steps {steps}: at least one step to take, please")
        states = self.task.carry(points.to(self.task.device), frame, frames, steps=steps).xs
        assert states is not None
        return states.cpu()
