"""Trained predictors for users: ``VideoPredictor.from_pretrained("runs/my-run")`` goes on with anybody's frames."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from domains.video.past import Redraw
from domains.video.rollout import Dials
from flowkit.errors import UserError
from flowkit.random import Rows, mix_seed
from flowkit.solvers.sampler import Sampler

if TYPE_CHECKING:
    from domains.video.river import RiverTask


@dataclass(frozen=True)
class NextFrame:
    """One predicted frame of every sample.

    Attributes:
        pixels: uint8 (samples, c, h, w), on the CPU.
        nfe: mean evaluations of the field.
        network_calls: mean calls of networks; both halves of guidance count.
        seconds: of all samples together, decoding included.
    """

    pixels: UInt8[Tensor, "samples c h w"]
    nfe: float
    network_calls: float
    seconds: float


class VideoPredictor:
    """A trained predictor::

        predictor = VideoPredictor.from_pretrained("runs/my-run", steps=10)
        for frame in predictor.stream(context, samples=4, seed=0):   # without end: break when you have enough
            show(frame.pixels)
        clip = predictor(context, frames=30, samples=4)              # uint8 (4, 30, c, h, w)

    Time and memory of a frame do not grow with the number of frames.

    Args:
        task: a trained :class:`RiverTask`.
        sampler: how to solve.
        redraw, strength, horizon: instead of the task's; see :class:`RiverTask`. A horizon beyond the training clips'
            length shows the network distances that it never saw.

    Attributes:
        size, channels: of the frames.
        context: known frames in the training's evaluations: a good number to give.
        fps: frames a second of the training clips, or 0 where the data did not say.
    """

    def __init__(
        self,
        task: RiverTask,
        sampler: Sampler | None = None,
        *,
        redraw: Redraw | None = None,
        strength: float | None = None,
        horizon: int | None = None,
    ) -> None:
        self.task, self.sampler = task.eval(), sampler or Sampler()
        own = task.dials
        self.dials = Dials(
            redraw or own.redraw,
            own.strength if strength is None else strength,
            own.horizon if horizon is None else horizon,
        )
        self.size, self.channels, self.context = task.size, task.channels, task.context
        self.fps = float(task.fps)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | torch.device = "cpu",
        steps: int | None = None,
        sampler: Sampler | None = None,
        redraw: Redraw | None = None,
        strength: float | None = None,
        horizon: int | None = None,
    ) -> VideoPredictor:
        """A run folder, a pretrained name (``video/...``) or a ``save_pretrained`` folder.

        Args:
            name: of the model.
            device: where it computes.
            steps: of the solver, instead of the model's sampler's.
            sampler: instead of the one that the model was saved with.
            redraw, strength, horizon: see :class:`VideoPredictor`.

        Raises:
            UserError: there is no such model, its files are damaged, it predicts no video, or a value is out of range.
        """
        from flowkit.artifacts import load

        found = load(name, device=device, sampler=sampler)
        if not isinstance(found, cls):
            raise UserError(f"{name} predicts no video: it is a model for {type(found).__name__}")
        chosen = found.sampler
        if steps is not None:
            if steps < 1:
                raise UserError(f"steps must be at least 1, not {steps}")
            chosen = replace(chosen, steps=steps, controller=None)
        return cls(found.task, chosen, redraw=redraw, strength=strength, horizon=horizon)

    def stream(self, context: Any, *, samples: int = 1, seed: int = 0, actions: Any = None) -> Iterator[NextFrame]:
        """Frames as they come, without end (with actions: as many as there are actions).

        The draws of a sample are a function of (seed, frame, sample): more samples leave the first ones as they were.

        Args:
            context: uint8 (k, c, h, w), tensor or array, the oldest first; k >= 1.
            samples: continuations.
            seed: of the draws.
            actions: (n, A) from the last context frame on, where the model reads actions.

        Raises:
            UserError: frames of another kind, wrong actions; while it goes on: a frame that is not finite.
        """
        known = self._checked(context)
        if samples < 1:
            raise UserError(f"samples must be at least 1, not {samples}")
        steps = None
        if actions is not None:
            steps = torch.as_tensor(np.asarray(actions), dtype=torch.float32, device=self.task.device)
            if steps.ndim != 2:
                raise UserError(f"actions are (frames, numbers), not of shape {tuple(steps.shape)}")
            steps = steps.expand(samples, *steps.shape)
        rollout = self.task.roll(
            known.expand(samples, *known.shape), sampler=self.sampler, dials=self.dials, actions=steps,
            noise=lambda frame: Rows(mix_seed(seed, 0xF0E, frame), total=samples),
        )  # fmt: skip
        return self._frames(rollout)

    def _frames(self, rollout: Any) -> Iterator[NextFrame]:
        from domains.video.values import pixels

        began = time.perf_counter()
        for number, solution in enumerate(rollout):
            shown = self.task.decode(solution.x)
            if not bool(shown.isfinite().all()):
                raise UserError(
                    f"predicted frame {number} is not finite: the model's weights are damaged, its training diverged, "
                    "or the solver's steps are too large"
                )
            frame = pixels(shown).cpu()
            nfe, calls = float(solution.evaluations.double().mean()), float(solution.network_calls.double().mean())
            yield NextFrame(frame, nfe, calls, time.perf_counter() - began)
            began = time.perf_counter()

    def __call__(
        self, context: Any, *, frames: int, samples: int = 1, seed: int = 0, actions: Any = None
    ) -> UInt8[Tensor, "samples frames c h w"]:
        """``frames`` predicted frames, uint8 on the CPU; see :meth:`stream`.

        Raises:
            UserError: see :meth:`stream`; or there are fewer actions than frames.
        """
        if frames < 1:
            raise UserError(f"frames must be at least 1, not {frames}")
        made = [f.pixels for f in islice(self.stream(context, samples=samples, seed=seed, actions=actions), frames)]
        if len(made) < frames:
            raise UserError(f"{frames} frames need {frames} actions, {len(made)} were given")
        return torch.stack(made, 1)

    def _checked(self, context: Any) -> Tensor:
        frames = torch.as_tensor(np.asarray(context) if not isinstance(context, Tensor) else context)
        wanted = f"uint8 (frames, {self.channels}, {self.size}, {self.size})"
        if frames.dtype != torch.uint8 or frames.ndim != 4:
            raise UserError(f"the known frames are {wanted}, not {frames.dtype} {tuple(frames.shape)}")
        if tuple(frames.shape[1:]) != (self.channels, self.size, self.size) or not len(frames):
            raise UserError(f"the known frames are {wanted}, at least one, not of shape {tuple(frames.shape)}")
        return frames.to(self.task.device)
