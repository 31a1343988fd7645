"""Batches of mixed lengths for the alignment search."""

from __future__ import annotations

import torch


def ragged(
    seed: int = 0, batch: int = 8, most: int = 40, longest: int = 90
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Batches of mixed lengths; whole numbers, so that ties are many and sums exact. Padding holds nan."""
    generator = torch.Generator().manual_seed(seed)
    value = (torch.randn(batch, most, longest, generator=generator) * 3).round()
    tokens = torch.randint(1, most + 1, (batch,), generator=generator)
    frames = torch.maximum(torch.randint(1, longest + 1, (batch,), generator=generator), tokens)
    tokens[0], frames[0] = most, longest
    tokens[1], frames[1] = most // 2, most // 2
    for i in range(batch):
        value[i, tokens[i] :] = torch.nan
        value[i, :, frames[i] :] = torch.nan
    return value, tokens, frames
