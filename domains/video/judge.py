"""How a predictor is judged: held-out clips are gone on with after their first frames, beside copying the last one."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from domains.video.metrics import best_of, copy_last, finite_mean, psnr, ssim
from domains.video.present import side_by_side
from domains.video.river import pixels, scaled
from flowkit.errors import UserError, nearest
from flowkit.random import Rows, mix_seed
from flowkit.solvers.sampler import Sampler

if TYPE_CHECKING:
    from domains.video.river import RiverTask
    from flowkit.data import Samples
    from flowkit.tasks import Presentation

#: Clips at once in evaluations; clips and samples a clip that are shown.
_BATCH, _SHOWN, _SAMPLES = 64, 3, 3


class Predicted(NamedTuple):
    """Predictions of a batch of clips: frames in [-1, 1], and (b,) counts of each frame."""

    frames: Float[Tensor, "b n c h w"]
    evaluations: Int[Tensor, "b n"]
    network_calls: Int[Tensor, "b n"]
    failed: Int[Tensor, "b n"]


@torch.no_grad()
def predict(
    task: RiverTask,
    context: UInt8[Tensor, "b k c h w"],
    frames: int,
    *,
    sampler: Sampler,
    seed: int = 0,
    first: int = 0,
    actions: Float[Tensor, "b n A"] | None = None,
) -> Predicted:
    """``frames`` frames after ``context``.

    The draws of row i in frame j are a function of (seed, j, first + i), so they do not depend on how clips are cut
    into batches.
    """
    total = first + context.shape[0]

    def noise(frame: int) -> Rows:
        return Rows(mix_seed(seed, 0x51E, frame), first=first, total=total)

    solutions = list(islice(task.roll(context, sampler=sampler, noise=noise, actions=actions), frames))
    return Predicted(
        torch.stack([task.decode(s.x) for s in solutions], 1),
        torch.stack([s.evaluations for s in solutions], 1),
        torch.stack([s.network_calls for s in solutions], 1),
        torch.stack([(s.status != 0).long() for s in solutions], 1),
    )


@torch.no_grad()
def judge(
    task: RiverTask, samples: Samples, *, sampler: Sampler, seed: int = 0, limit: int | None = None
) -> dict[str, float]:
    """Measures on held-out clips (at most ``limit`` and ``task.evaluate_clips``, evenly spread).

    Returns:
        ``psnr``, ``ssim``: of the first sample, mean over the predicted frames and the clips; ``psnr_first``: of the
        first predicted frame; ``psnr_best``, ``ssim_best``: of each clip's best of ``evaluate_samples``;
        ``psnr_copy``, ``ssim_copy``, ``psnr_copy_first``: of copying the last known frame; ``psnr_codec``: of the true
        frames through the codec, the ceiling (left out where the codec is lossless); ``nfe``, ``network_calls`` a
        frame; ``failed``: share of solves that did not arrive.
    """
    count = min(len(samples), task.evaluate_clips, len(samples) if limit is None else limit)
    if not count:
        return {}
    chosen = np.linspace(0, len(samples) - 1, count).astype(np.int64)
    columns: dict[str, list[Tensor]] = {}

    def add(**values: Tensor) -> None:
        for name, value in values.items():
            columns.setdefault(name, []).append(value.double().cpu())

    structure = task.size > 5
    for start in range(0, count, _BATCH):
        raw = samples.batch(chosen[start : start + _BATCH].tolist())
        clips = raw["frames"].to(task.device)
        context, true = clips[:, : task.context], scaled(clips[:, task.context :])
        made = [
            predict(task, context, true.shape[1], sampler=sampler, seed=mix_seed(seed, number), first=start,
                    actions=_actions(task, raw))
            for number in range(task.evaluate_samples)
        ]  # fmt: skip
        curves = torch.stack([psnr(sample.frames, true) for sample in made])
        copied = copy_last(scaled(context), true.shape[1])
        copy = psnr(copied, true)
        add(
            psnr=curves[0], psnr_first=curves[0, :, 0], psnr_best=best_of(curves), psnr_copy=copy,
            psnr_copy_first=copy[:, 0], psnr_codec=psnr(_through(task, true), true), nfe=made[0].evaluations,
            network_calls=made[0].network_calls, failed=made[0].failed,
        )  # fmt: skip
        if structure:
            alike = torch.stack([ssim(sample.frames, true) for sample in made])
            add(ssim=alike[0], ssim_best=best_of(alike), ssim_copy=ssim(copied, true))
    found = {name: finite_mean(torch.cat([v.flatten() for v in values])) for name, values in columns.items()}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _through(task: RiverTask, frames: Float[Tensor, "b n c h w"]) -> Tensor:
    return task.decode(task.codec.encode(frames.flatten(0, 1))).unflatten(0, frames.shape[:2])


def _actions(task: RiverTask, raw: Mapping[str, Any]) -> Tensor | None:
    """Those from the last context frame on."""
    return raw["actions"][:, task.context - 1 :].to(task.device) if task.actions else None


@torch.no_grad()
def exhibit(task: RiverTask, samples: Samples, *, sampler: Sampler, seed: int = 0) -> dict[str, Presentation]:
    """The truth and a few predictions side by side, a row for each of a few held-out clips."""
    if not len(samples):
        return {}
    # By the golden ratio: spread over the split.
    chosen = (np.arange(1, min(_SHOWN, len(samples)) + 1) * 0.618034 % 1 * len(samples)).astype(np.int64)
    raw = samples.batch(chosen.tolist())
    clips = raw["frames"].to(task.device)
    context = clips[:, : task.context]
    panels = [clips.cpu().numpy()]
    for number in range(_SAMPLES):
        made = predict(
            task, context, clips.shape[1] - task.context, sampler=sampler, seed=mix_seed(seed, number),
            actions=_actions(task, raw),
        )  # fmt: skip
        panels.append(torch.cat([context, pixels(made.frames)], 1).cpu().numpy())
    rows = [[panel[row] for panel in panels] for row in range(len(chosen))]
    return {"clips": side_by_side(rows, context=task.context, fps=float(task.fps) or 10.0, truth=True)}


@torch.no_grad()
def take(
    task: RiverTask, n: int, *, sampler: Sampler, seed: int = 0, request: Mapping[str, Any]
) -> dict[str, Presentation]:
    """``n`` continuations of the stored example; ``request`` may hold ``frames``, how many (default: as the training
    clips).

    Raises:
        UserError: the request holds something else, or the model needs actions.
    """
    for key in request:
        if key != "frames":
            raise UserError(f"a video model knows no request {key!r}: {nearest(str(key), ['frames'])}")
    frames = request.get("frames", max(int(task.clip_frames) - task.context, 1))
    if not isinstance(frames, int) or frames < 1:
        raise UserError(f"frames={frames!r}: a number of at least 1")
    actions = torch.zeros(n, frames, task.actions, device=task.device) if task.actions else None
    context = task.example.expand(n, *task.example.shape)
    made = predict(task, context, frames, sampler=sampler, seed=seed, actions=actions)
    clips = torch.cat([context, pixels(made.frames)], 1).cpu().numpy()
    return {"clips": side_by_side([list(clips)], context=task.context, fps=float(task.fps) or 10.0)}
