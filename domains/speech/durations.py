"""From predicted log-durations to whole frames.

The published rule gives every token ceil(w) frames, so that each blank between two symbols takes at least one: measured
on the English prompts its speech is 1.23 times too long. :func:`round_cumulative` rounds the ends of the tokens instead
of their lengths: the total is the predicted one.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def round_up(durations: Float[Tensor, "b n"], length_scale: float = 1.0) -> Float[Tensor, "b n"]:
    """The published rule: ceil(w) * length_scale, fractional where the scale is."""
    return durations.ceil() * length_scale


def round_cumulative(durations: Float[Tensor, "b n"], needed: Bool[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """Whole frames per token whose sums follow the sums of ``durations``; tokens marked ``needed`` get at least one.

    The end of token i is max(round(w_0 + ... + w_i), end of token i-1 + needed_i). What a token takes beyond its share
    is given back by the next tokens that have frames to spare.
    """
    least = needed.to(durations.dtype).cumsum(1)
    wanted = durations.cumsum(1).round()
    # Unrolled: end_i = max over k <= i of (wanted_k - least_k) + least_i, and never below least_i.
    ends = torch.cummax(wanted - least, dim=1).values.clamp_min(0.0) + least
    return torch.diff(ends, dim=1, prepend=ends.new_zeros(ends.shape[0], 1))


def round_durations(
    durations: Float[Tensor, "b n"],
    needed: Bool[Tensor, "b n"],
    rounding: Literal["nearest", "ceil"],
    length_scale: float = 1.0,
) -> Float[Tensor, "b n"]:
    """By the rule ``nearest`` (:func:`round_cumulative`) or ``ceil`` (:func:`round_up`)."""
    if rounding == "ceil":
        return round_up(durations, length_scale)
    return round_cumulative(durations * length_scale, needed)


def total_frames(durations: Float[Tensor, "b n"]) -> Int[Tensor, " b"]:
    """Frames of each utterance: the whole part of the sum, at least 1."""
    return durations.sum(1).add(1e-4).floor().long().clamp_min(1)
