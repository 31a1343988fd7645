"""Putting right the noise of inverted pairs: real data solved back to t = 0 are not quite standard normal.

A student samples from N(0, I), so it should train on that. The noise is whitened, and then each element gets the normal
score of its rank among all pairs: its marginal law is exactly normal, and what moved, moved little, so x0 still belongs
to its x1. Kim et al. 2024, "Simple ReFlow" (arXiv 2410.07815), correct the marginals of inverted pairs too; this way of
doing it is FlowKit's.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.errors import UserError

__all__ = ["excess_kurtosis", "project_noise"]


def project_noise(x0: Float[Tensor, "n *d"]) -> Float[Tensor, "n *d"]:
    """The nearest noise that is normal in every element.

    Whitening needs well more samples than elements: it is left out below ten samples an element.

    Raises:
        UserError: fewer than 16 samples, whose ranks say little.
    """
    n = x0.shape[0]
    if n < 16:
        raise UserError(
            f"{n} inverted pairs cannot be projected to normal noise: take at least 16 of one shape in a shard"
        )
    flat = x0.flatten(1).double()
    flat = flat - flat.mean(0)
    if n >= 10 * flat.shape[1]:
        values, vectors = torch.linalg.eigh(flat.T @ flat / n)
        flat = flat @ (vectors * values.clamp_min(1e-6).rsqrt()) @ vectors.T  # symmetric: moves points the least
    ranks = flat.argsort(0).argsort(0)
    return torch.special.ndtri((ranks + 0.5) / n).reshape(x0.shape).to(x0.dtype)


def excess_kurtosis(x0: Float[Tensor, "n *d"]) -> float:
    """Mean over elements of E[z^4] / E[z^2]^2 - 3: 0 for normal noise, to watch what an inversion makes."""
    flat = x0.flatten(1).double()
    flat = flat - flat.mean(0)
    square = flat.square()
    return float((square.square().mean(0) / square.mean(0).square().clamp_min(1e-30)).mean()) - 3.0
