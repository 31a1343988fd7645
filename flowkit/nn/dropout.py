"""Dropout whose mask is cheap on a CPU.

torch draws one number an element from a serial generator there, which took a tenth of a transformer's training step.
Here each 64-bit draw decides four elements, by 16 bits each: the chance to drop is rounded to a multiple of 1 / 65536,
and what is kept is scaled by that chance. On other devices, and in compiled programs, it is torch's own.

Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting" (JMLR 15, 2014).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_LEVELS = 1 << 16


def dropout(x: Float[Tensor, "..."], p: float, training: bool = True) -> Float[Tensor, "..."]:
    """``x`` with each element zero at the chance ``p`` and scaled by 1 / (1 - p) otherwise; ``x`` unless training.

    Draws come from torch's global generator of the device.
    """
    dropped = round(p * _LEVELS)
    if not training or x.device.type != "cpu" or torch.compiler.is_compiling() or not 0 < dropped < _LEVELS:
        return F.dropout(x, p, training)
    count = x.numel()
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(1 << 63), None)
    kept = draws.view(torch.int16)[:count].view(x.shape) >= dropped - _LEVELS // 2
    return x * kept.to(x.dtype).mul_(_LEVELS / (_LEVELS - dropped))


class Dropout(nn.Dropout):
    """:func:`dropout` as a module."""

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """See :func:`dropout`."""
        return dropout(x, self.p, self.training)
