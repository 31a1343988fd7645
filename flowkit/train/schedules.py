"""The learning rate as a function of the step: linear warm-up, then constant, cosine or linear decay.

With w warm-up steps, T steps in all and the floor f: factor(s) = (s + 1) / w for s < w; then, with
p = (s - w) / (T - w), 1 (constant), f + (1 - f) (1 + cos(pi p)) / 2 (cosine; Loshchilov and Hutter, arXiv 1608.03983)
or f + (1 - f) (1 - p) (linear).
A pure function of the step, so there is nothing to save for resuming. Where the training ends by the clock, the share
of its time that is gone decides p when that is larger.
"""

from __future__ import annotations

import math
from typing import Literal

ScheduleName = Literal["constant", "cosine", "linear"]


def factor(
    schedule: ScheduleName, step: int, *, steps: int, warmup: int = 0, floor: float = 0.0, elapsed: float = 0.0
) -> float:
    """The share of the peak learning rate at ``step`` (from 0) of ``steps``.

    Args:
        schedule: the law after the warm-up.
        step: number of optimiser steps already made.
        steps: length of the whole training in optimiser steps.
        warmup: steps of linear warm-up; the first step already learns.
        elapsed: share of the training's time that is gone, 0 where time does not end it.
        floor: share that is left at the end of cosine and linear decay, in [0, 1].
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    progress = min(max((step - warmup) / max(steps - warmup, 1), elapsed), 1.0)
    falling = 0.5 * (1.0 + math.cos(math.pi * progress)) if schedule == "cosine" else 1.0 - progress
    return floor + (1.0 - floor) * falling
