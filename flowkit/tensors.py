"""Shapes, masks and reductions that every part of the core shares.

One rule for time: ``t`` has shape (b,) everywhere and :func:`like` makes it broadcast. One rule for losses: the
    mean over
the elements that a mask keeps, per sample; the mean over the batch comes later, so that it stays exact across
processes.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Shaped
from torch import Tensor


def like(t: Shaped[Tensor, " b"], x: Shaped[Tensor, "b *d"]) -> Shaped[Tensor, "b *ones"]:
    """Reshape ``t`` (b,) to (b, 1, ..., 1) with the dtype of ``x``, so that it broadcasts over a sample."""
    return t.to(x.dtype).reshape(t.shape[0], *[1] * (x.ndim - 1))


def sum_per_sample(x: Float[Tensor, "b *d"]) -> Float[Tensor, " b"]:
    """Sum over everything but the batch axis."""
    return x.flatten(1).sum(1) if x.ndim > 1 else x


def mean_per_sample(x: Float[Tensor, "b *d"], keep: Bool[Tensor, "b *k"] | None = None) -> Float[Tensor, " b"]:
    """Mean of each sample over the elements that ``keep`` (broadcastable to ``x``) marks; 0 where it marks none."""
    if x.ndim == 1:
        return x
    if keep is None:
        return x.flatten(1).mean(1)
    weight = keep.expand_as(x).to(x.dtype)
    # where, not a product: a NaN in a padded element must not reach the loss.
    total = x.where(keep.expand_as(x), x.new_zeros(())).flatten(1).sum(1)
    return total / weight.flatten(1).sum(1).clamp_min(1.0)
