"""A video model as programs: frames to latents, known latents and noise to the next one, latents to frames.

Predicted latents become the known ones, as in :class:`domains.video.rollout.Rollout`: they are not decoded and encoded
again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.programs import Exportable, Port, Program, beginning, generate, planned, reads_noise, solutions
from flowkit.random import RandomSource
from flowkit.solvers.sampler import Sampler

if TYPE_CHECKING:
    from domains.video.river import RiverTask

ENCODE, NEXT, DECODE = "encode", "next", "decode"

_CARD = """1. `encode` makes latents of the known frames.
2. `next` predicts a latent: `reference` is the last known one, `past` are older ones drawn at random (with one known
   latent: that one), `distance` says how many frames before the reference they lie, at least 1. There are as many pasts
   as the solve looks at. Noise is standard normal.
3. The predicted latent is known from now on; keep at most `facts.horizon` (0: all).
4. `decode` makes pictures of latents."""


class EncodeProgram(nn.Module):
    """Frames (b, c, h, w), 0 to 255, to latents."""

    def __init__(self, task: RiverTask) -> None:
        super().__init__()
        self.task = task

    def forward(self, frames: Tensor) -> Tensor:
        """Latents (b, C, H, W)."""
        return self.task.encode(frames.unsqueeze(1)).squeeze(1)


class DecodeProgram(nn.Module):
    """Latents to frames (b, c, h, w) in -1 .. 1."""

    def __init__(self, task: RiverTask) -> None:
        super().__init__()
        self.task = task

    def forward(self, latents: Tensor) -> Tensor:
        """Frames."""
        return self.task.decode(latents)


class _Pasts:
    """Gives one past after the other; remembers in which steps of the solve they were asked for."""

    def __init__(self, past: Tensor, distance: Tensor) -> None:
        self.past, self.distance, self.steps = past, distance, []

    def __call__(self, cond: Cond, t: Tensor, step: int, generator: RandomSource | None) -> Cond:
        place = min(len(self.steps), self.past.shape[1] - 1)
        self.steps.append(step)
        return replace(cond, values={**cond.values, "past": self.past[:, place], "distance": self.distance[:, place]})


class NextProgram(nn.Module):
    """``reference`` (b, C, H, W), ``past`` (b, p, C, H, W), ``distance`` (b, p), the noise and, where the task has
    actions, ``action`` (b, A).

    Args:
        task: trained.
        sampler: how to solve.
        pasts: p, the evaluations of the field; 1 where the past is drawn once a frame.
    """

    def __init__(self, task: RiverTask, sampler: Sampler, pasts: int) -> None:
        super().__init__()
        self.task, self.sampler, self.pasts = task, sampler, pasts

    def forward(self, reference: Tensor, past: Tensor, distance: Tensor, *more: Tensor) -> Tensor:
        """The next latent (b, C, H, W)."""
        return self.solve(reference, past, distance, *more)[0]

    def solve(self, reference: Tensor, past: Tensor, distance: Tensor, *more: Tensor) -> tuple[Tensor, list[int]]:
        """The next latent, and the steps in which pasts were asked for."""
        task = self.task
        noisy = reads_noise(task.objective)
        noise = more[0] if noisy else torch.zeros_like(reference)
        values = {"reference": reference, "past": past[:, 0], "distance": distance[:, 0]}
        if task.actions:
            values["action"] = more[-1]
        given = _Pasts(past, distance)
        cond = Cond(values, nulls={"distance": 1}, redraw=given if self.pasts > 1 else None)
        strength, sampler, objective = task.dials.strength, self.sampler, task.objective
        if strength == 0.0 or not isinstance(objective, FlowMatching):
            made = generate(objective, task.networks, noise, cond, sampler)
        else:
            x0 = beginning(objective, noise, cond, sampler)
            t = torch.full((reference.shape[0],), strength, dtype=x0.dtype)
            state = objective.path.at(x0, reference, t).xt
            sampler = replace(sampler, temperature=1.0)
            made = generate(objective, task.networks, noise, cond, sampler, span=(strength, 1.0), state=state)
        return made, given.steps


def exports(task: RiverTask, sampler: Sampler) -> Exportable:
    """See :meth:`flowkit.tasks.Task.exports`."""
    if not int(task.clip_frames):
        raise UserError("this video model has seen no clips yet: train it first")
    sampler = planned(sampler, (task.dials.strength, 1.0))
    steps = _steps_of_pasts(task, sampler)
    latent, pasts = tuple(task.latent), max(len(steps), 1)
    pixels = (task.channels, task.size, task.size)
    farthest = max(task.reach - 1, 1)
    inputs = [
        Port("reference", ("batch", *latent), "latent of the last known frame"),
        Port("past", ("batch", pasts, *latent), "latents of older frames"),
        Port("distance", ("batch", pasts), "frames from the past to the reference", torch.int64, 1, farthest),
    ]
    noisy = reads_noise(task.objective)
    if noisy:
        inputs.append(Port("noise", ("batch", *latent), "standard normal"))
    if task.actions:
        inputs.append(Port("action", ("batch", task.actions), "from the reference to the next frame"))
    latents = Port("latents", ("batch", *latent), "of the frames")
    shown = Port("frames", ("batch", *pixels), "pixels in -1 .. 1")
    bytes_ = Port("frames", ("batch", *pixels), "pixels, 0 to 255", torch.uint8, 0, 255)
    programs = {
        ENCODE: Program(EncodeProgram(task).eval(), [bytes_], [latents], about="From frames to latents."),
        NEXT: Program(
            NextProgram(task, sampler, pasts).eval(), inputs, [Port("latent", ("batch", *latent), "of the next frame")],
            about="From known latents and noise to the next latent.",
        ),
        DECODE: Program(DecodeProgram(task).eval(), [latents], [shown], about="From latents to frames."),
    }  # fmt: skip
    facts: dict[str, Any] = {
        "size": task.size, "channels": task.channels, "context": task.context, "fps": float(task.fps),
        "latent": list(latent), "horizon": task.reach, "redraw": task.dials.redraw, "pasts": pasts,
        "steps_of_pasts": steps, "actions": task.actions, "noise": noisy,
    }  # fmt: skip
    return Exportable(programs, facts, _CARD)


@torch.no_grad()
def _steps_of_pasts(task: RiverTask, sampler: Sampler) -> Sequence[int]:
    """The step of the solver in which each past is asked for; empty where it is drawn once."""
    if task.dials.redraw == "once":
        return []
    blank = torch.zeros(1, *task.latent)
    more = [blank] if reads_noise(task.objective) else []
    more += [torch.zeros(1, task.actions)] if task.actions else []
    probe = NextProgram(task, sampler, 2)
    with solutions():
        return probe.solve(blank, blank[:, None], torch.ones(1, 1, dtype=torch.int64), *more)[1]
