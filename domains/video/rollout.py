"""Predicting frame after frame in the latent space: what is predicted becomes the next reference."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from domains.video.past import REDRAWS, PastDraw, Redraw
from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.objective import Objective
from flowkit.random import RandomSource
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.solver import Solution

if TYPE_CHECKING:
    from domains.video.river import RiverTask


@dataclass(frozen=True)
class Dials:
    """How frames are predicted, beside the sampler.

    Args:
        redraw: when the past frame is drawn anew; see :data:`domains.video.past.Redraw`.
        strength: s in [0, 1): start at t = s of the path from noise to the last frame; 0 starts from noise.
        horizon: known frames that may be seen and are kept, at least 2; 0 for all.

    Raises:
        UserError: a value that cannot be.
    """

    redraw: Redraw = "call"
    strength: float = 0.0
    horizon: int = 0

    def __post_init__(self) -> None:
        if self.redraw not in REDRAWS:
            raise UserError(f"redraw is one of {', '.join(REDRAWS)}, not {self.redraw!r}")
        if not 0.0 <= self.strength < 1.0:
            raise UserError(f"strength must lie in [0, 1), not {self.strength:g}")
        if self.horizon < 0 or self.horizon == 1:
            raise UserError(f"horizon is 0 (all the past) or at least 2 frames, not {self.horizon}")


class Rollout:
    """The next latents without end: ``next(rollout)`` is the solution of one frame, its ``x`` (b, C, H, W).

    It keeps ``dials.horizon`` latents, so that time and memory of a frame do not grow; with the horizon 0 it keeps all.

    Args:
        task: in evaluation mode.
        context: known latents (b, k, C, H, W), the oldest first, k >= 1.
        sampler: how to solve.
        dials: how the past is used.
        noise: number of the predicted frame (from 0) -> source of its draws; None: torch's global state.
        actions: (b, n, A) of the steps from the last context frame on, where the task has actions; it ends the rollout.

    Raises:
        UserError: actions are missing, or given to a task without.
    """

    def __init__(
        self,
        task: RiverTask,
        context: Float[Tensor, "b k C H W"],
        *,
        sampler: Sampler,
        dials: Dials,
        noise: Callable[[int], RandomSource | None] | None = None,
        actions: Float[Tensor, "b n A"] | None = None,
    ) -> None:
        if context.shape[1] < 1:
            raise UserError("prediction needs at least one known frame")
        given = 0 if actions is None else actions.shape[2]
        if given != task.actions:
            raise UserError(f"the model reads {task.actions} numbers of action a frame, {given} were given")
        self.task, self.sampler, self.dials, self.noise, self.actions = task, sampler, dials, noise, actions
        self._known: deque[Tensor] = deque(context.unbind(1), maxlen=dials.horizon or None)
        self._frame = 0

    @property
    def kept(self) -> int:
        """How many latents it holds now."""
        return len(self._known)

    def __iter__(self) -> Iterator[Solution]:
        return self

    @torch.no_grad()
    def __next__(self) -> Solution:
        if self.actions is not None and self._frame >= self.actions.shape[1]:
            raise StopIteration
        generator = None if self.noise is None else self.noise(self._frame)
        extra = {} if self.actions is None else {"action": self.actions[:, self._frame]}
        draw = PastDraw(torch.stack(tuple(self._known), 1), redraw=self.dials.redraw, extra=extra)
        solution = self._solve(draw, generator)
        self._known.append(solution.x)
        self._frame += 1
        return solution

    def _solve(self, draw: PastDraw, generator: RandomSource | None) -> Solution:
        task, strength = self.task, self.dials.strength
        reference = self._known[-1]
        cond = draw.first(generator)
        if strength == 0.0:
            return task.objective.generate(task.networks, reference, cond, sampler=self.sampler, generator=generator)
        state = warm_start(
            task.objective, reference, cond, strength, temperature=self.sampler.temperature, generator=generator
        )
        return task.objective.generate(
            task.networks, reference, cond, sampler=replace(self.sampler, temperature=1.0), x0=state,
            span=(strength, 1.0), generator=generator,
        )  # fmt: skip


def warm_start(
    objective: Objective,
    reference: Float[Tensor, "b C H W"],
    cond: Cond,
    strength: float,
    *,
    temperature: float = 1.0,
    generator: RandomSource | None = None,
) -> Float[Tensor, "b C H W"]:
    """The state at t = ``strength`` of the path from fresh noise to ``reference``, (b, C, H, W).

    Raises:
        UserError: the objective has no path.
    """
    if not isinstance(objective, FlowMatching):
        raise UserError(f"{type(objective).__name__} has no path to start on: set strength to 0")
    x0 = objective.source.draw(reference, cond, generator, temperature=temperature)
    t = torch.full((reference.shape[0],), strength, dtype=x0.dtype, device=x0.device)
    return objective.path.at(x0, reference, t).xt
