"""Predicting a batch of clips: frames, counts and failures, with draws that do not depend on the batch."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from flowkit.random import Rows, mix_seed
from flowkit.solvers.sampler import Sampler

if TYPE_CHECKING:
    from domains.video.river import RiverTask


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
