"""Batches of mixed lengths for the alignment search."""

from __future__ import annotations

import torch


def ragged(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Batches of mixed lengths; whole numbers, so that ties are many and sums exact. Padding holds nan."""
    generator = torch.Generator().manual_seed(seed)
    value = (torch.randn(8, 40, 90, generator=generator) * 3).round()
    tokens = torch.randint(1, 41, (8,), generator=generator)
    frames = torch.maximum(torch.randint(1, 91, (8,), generator=generator), tokens)
    tokens[0], frames[0] = 40, 90
    tokens[1], frames[1] = 25, 25
    for i in range(8):
        value[i, tokens[i] :] = torch.nan
        value[i, :, frames[i] :] = torch.nan
    return value, tokens, frames
