"""Likelihoods of quantised data: bits per dimension, dequantisation and the bound that it gives."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowkit.random import RandomSource, uniform


def bits_per_dim(
    log_density: Float[Tensor, " b"], elements: int | Tensor, *, low: float = -1.0, high: float = 1.0, levels: int = 256
) -> Float[Tensor, " b"]:
    """Bits per dimension of data of ``levels`` levels that was scaled to [low, high]: -log p / (d ln 2) + log2(levels /
    (high - low)).

    The constant is 7 for bytes scaled to [-1, 1] and 8 for [0, 1].
    """
    return -log_density / (elements * math.log(2.0)) + math.log2(levels / (high - low))


def dequantise(
    codes: Int[Tensor, "b *d"],
    generator: RandomSource | None,
    *,
    low: float = -1.0,
    high: float = 1.0,
    levels: int = 256,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "b *d"]:
    """Uniform dequantisation x = low + (high - low) (k + u) / levels with u uniform on (0, 1)."""
    u = uniform(tuple(codes.shape), generator, device=codes.device, dtype=dtype)
    return low + (high - low) / levels * (codes.to(dtype) + u)


def dequantised_bound(
    log_density: Callable[[Tensor], Float[Tensor, " b"]],
    codes: Int[Tensor, "b *d"],
    *,
    samples: int = 1,
    generator: RandomSource | None = None,
    low: float = -1.0,
    high: float = 1.0,
    levels: int = 256,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, " b"]:
    """A lower bound of the log-density, logsumexp_k log p(x + u_k) - log K, for :func:`bits_per_dim`; tighter with more
    ``samples``.

    The - log K is part of it: left out, bits per dimension look better by log K / (d ln 2). Burda et al. 2015 (arXiv
    1509.00519).

    Args:
        log_density: x (b, *d) -> log p(x) (b,), for instance ``lambda x: log_likelihood(field, x).log_density``.
        codes: integers in 0 .. levels - 1.
        samples: K, solves made.
        generator: draws the u_k.
        low: value of code 0.
        high: value that code ``levels`` would have.
        levels: number of codes.
        dtype: of the dequantised data.
    """
    if samples < 1:
        raise ValueError(f"samples must be 1 or more, not {samples}")
    draws = [
        log_density(dequantise(codes, generator, low=low, high=high, levels=levels, dtype=dtype))
        for _ in range(samples)
    ]
    return torch.stack(draws).logsumexp(0) - math.log(samples)
