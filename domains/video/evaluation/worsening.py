"""Clips made worse by drawn amounts, so that a classifier learns to tell how bad they are.

A network that reads attributes off clips learns to overlook what changes none of them: noise below the contrast of a
sprite, say. Its features then say nothing of noise either. Asked for the level as well, it keeps it in its features.
Levels are asked for as steps that were passed, not as classes: features of classes lie apart, but those of a strong
blur need not lie further from good clips than those of a weak one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flowkit.errors import UserError, nearest
from flowkit.random import RandomSource, normal, uniform

#: Weakest and strongest: deviation of the noise in steps of 255, of the blur's Gaussian in pixels.
RANGES = {"noise": (2.5, 60.0), "blur": (0.4, 5.0)}
#: Levels, equal parts of the logarithm of a range: 1 to this; 0 is a clip without.
LEVELS = 6
#: Kind -> its highest level. ``reversed``: the frames in the opposite order, or not.
KINDS = {"noise": LEVELS, "blur": LEVELS, "reversed": 1}


def check_shares(shares: Mapping[str, float]) -> None:
    """Check the shares of clips that are made worse.

    Raises:
        UserError: an unknown kind, or shares that are no shares.
    """
    for kind in shares:
        if kind not in KINDS:
            raise UserError(f"worsening names {kind!r}: {nearest(kind, KINDS)}")
    if any(not 0 < share < 1 for share in shares.values()) or sum(shares.values()) >= 1:
        raise UserError(f"worsening={dict(shares)}: shares are positive and sum to less than 1: some clips stay good")


def noisy(clips: Float[Tensor, "b *rest"], deviation: Float[Tensor, " b"], noise: Tensor) -> Tensor:
    """Clips in [-1, 1] with normal ``noise`` of a deviation, in steps of 255, of each."""
    return clips + noise * (deviation / 127.5).reshape(-1, *[1] * (clips.ndim - 1))


def blurred(clips: Float[Tensor, "b t c h w"], deviation: Float[Tensor, " b"]) -> Tensor:
    """Frames smeared by a Gaussian of a deviation, in pixels, of each clip; 0 leaves them as they are."""
    return _smearing(clips.shape[3], deviation) @ clips @ _smearing(clips.shape[4], deviation).mT


def _smearing(side: int, deviation: Tensor) -> Float[Tensor, "b 1 1 n n"]:
    # Rows of weights that sum to 1: what lies outside of a frame has none.
    place = torch.arange(side, device=deviation.device, dtype=torch.float32)
    apart = (place[:, None] - place).square()
    weight = torch.exp(-apart / (2 * deviation.clamp(min=1e-3).square()[:, None, None]))
    return (weight / weight.sum(-1, keepdim=True))[:, None, None]


def worsened(
    clips: Float[Tensor, "b t c h w"], shares: Mapping[str, float], generator: RandomSource | None
) -> tuple[Float[Tensor, "b t c h w"], dict[str, Int[Tensor, " b"]], Bool[Tensor, " b"]]:
    """Make drawn clips worse, each in one way at most, by a drawn amount, and round to bytes as files do.

    Args:
        clips: in [-1, 1].
        shares: kind -> the chance that a clip is made worse in this way.
        generator: of the draws.

    Returns:
        The clips; kind -> the level of each; whether the attributes of a clip still hold: not after reversal.
    """
    count = len(clips)
    draw = uniform((count,), generator, device=clips.device)
    amount = uniform((count,), generator, device=clips.device)
    levels, holds, begin = {}, torch.ones(count, dtype=torch.bool, device=clips.device), 0.0
    for kind, share in shares.items():
        chosen = (draw >= begin) & (draw < begin + share)
        begin += share
        levels[kind] = chosen.long()
        if kind == "reversed":
            clips = torch.where(chosen[:, None, None, None, None], clips.flip(1), clips)
            holds = ~chosen
            continue
        low, high = RANGES[kind]
        deviation = low * torch.exp(amount * math.log(high / low)) * chosen
        levels[kind] = levels[kind] * (1 + (amount * LEVELS).long().clamp(max=LEVELS - 1))
        if kind == "blur":
            clips = blurred(clips, deviation)
        else:
            clips = noisy(clips, deviation, normal(tuple(clips.shape), generator, device=clips.device))
    return ((clips.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1, levels, holds


def passed(levels: Int[Tensor, " b"], highest: int) -> Int[Tensor, "b highest"]:
    """1 for each of the levels 1 to ``highest`` that a clip reaches or passes, 0 for the others."""
    return (levels[:, None] > torch.arange(highest, device=levels.device)).long()
