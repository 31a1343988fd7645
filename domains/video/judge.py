"""How a predictor is judged while it trains, and what it shows: held-out clips are gone on with after their first
frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from domains.video.evaluation.measuring import PSNR, SSIM, Measured, actions_of, measure
from domains.video.metrics import finite_mean
from domains.video.predicting import predict
from domains.video.present import side_by_side
from domains.video.values import pixels
from flowkit.errors import UserError, nearest
from flowkit.random import mix_seed
from flowkit.solvers.sampler import Sampler

if TYPE_CHECKING:
    from domains.video.river import RiverTask
    from flowkit.data import Samples
    from flowkit.tasks import Presentation

#: Clips and samples a clip that are shown.
_SHOWN, _SAMPLES = 3, 3


def judge(
    task: RiverTask, samples: Samples, *, sampler: Sampler, seed: int = 0, limit: int | None = None
) -> dict[str, float]:
    """Measures on held-out clips (at most ``limit`` and ``task.evaluate_clips``, evenly spread), without the heavy
    ones: for these see :func:`domains.video.evaluation.protocol.report`.

    Returns:
        See :func:`frame_metrics`.
    """
    count = min(len(samples), task.evaluate_clips, len(samples) if limit is None else limit)
    if not count:
        return {}
    chosen = np.linspace(0, len(samples) - 1, count).astype(np.int64).tolist()
    measures = (PSNR, SSIM) if task.size > 5 else (PSNR,)
    return frame_metrics(
        measure(task, samples, chosen, sampler=sampler, seed=seed, number=task.evaluate_samples, measures=measures)
    )


def frame_metrics(found: Measured) -> dict[str, float]:
    """Means over predicted frames and clips; what is not finite (the ceiling of a lossless codec) is left out.

    Returns:
        ``psnr``, ``ssim``, ...: of the first sample; ``psnr_first``: its first predicted frame; ``psnr_best``: each
        clip's best sample by this measure; ``psnr_mean``: all samples, with ``psnr_deviation`` of the samples of a
        clip; ``psnr_copy`` (and ``psnr_copy_first``): copying the last known frame; ``psnr_codec``: the true frames
        through the codec, the ceiling; ``psnr_step``: one step a frame, where that was measured;
        ``diversity_...``: distance between samples of a clip; ``nfe``,
        ``network_calls`` a frame; ``failed``: share of solves that did not arrive.
    """
    values: dict[str, float] = {}
    for name, kinds in found.curves.items():
        for kind, curve in kinds.items():
            values[name if kind == "first" else f"{name}_{kind}"] = finite_mean(curve)
        if name == "psnr":
            values |= {
                "psnr_first": finite_mean(kinds["first"][:, 0]),
                "psnr_copy_first": finite_mean(kinds["copy"][:, 0]),
            }
        if name in found.deviations:
            values[f"{name}_deviation"] = finite_mean(found.deviations[name])
    values |= {f"diversity_{name}": finite_mean(rows) for name, rows in found.diversity.items()}
    values |= {name: finite_mean(rows) for name, rows in found.counts.items()}
    return {name: value for name, value in values.items() if np.isfinite(value)}


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
            actions=actions_of(task, raw),
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
