"""Monotonic alignment search as a Triton kernel: one program per utterance, forward and back, nothing on the host.

The state Q of all tokens stays in registers; the neighbour's value comes by ``tl.gather``, which orders its own
exchange between threads. Which way each cell came from is written to a scratch of one byte per cell and read back,
behind a barrier, on the way home.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor


@triton.jit
def _search(
    value,
    moves,
    durations,
    token_lengths,
    mel_lengths,
    stride_b,
    stride_n,
    stride_t,
    tokens,
    frames,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    n = tl.load(token_lengths + row).to(tl.int32)
    length = tl.load(mel_lengths + row).to(tl.int32)
    token = tl.arange(0, BLOCK)
    left = tl.maximum(token - 1, 0)
    real = token < n
    value += row * stride_b
    moves += row * frames * BLOCK

    cells = value + token * stride_n
    now = tl.load(cells, mask=real, other=0.0)
    best = tl.where(token == 0, now, float("-inf"))
    ahead = tl.load(cells + stride_t, mask=real & (length > 1), other=0.0)
    marks = moves + token
    j = n * 0 + 1
    while j < length:
        now = ahead
        # Asked for one frame early, so that the answer is there when it is needed.
        cells += stride_t
        ahead = tl.load(cells + stride_t, mask=real & (j + 1 < length), other=0.0)
        before = tl.where(token == 0, float("-inf"), tl.gather(best, left, 0))
        move = (best < before) | (token >= j)
        marks += BLOCK
        tl.store(marks, move.to(tl.int8))
        best = tl.where(token <= j, tl.where(best < before, before, best) + now, float("-inf"))
        j += 1
    tl.debug_barrier()  # every thread's marks are written before one thread's mark is read by all

    count = tl.zeros([BLOCK], dtype=tl.int32)
    at = n - 1
    moves += (length - 1).to(tl.int64) * BLOCK
    j = length - 1
    while j >= 0:
        count += tl.where(token == at, 1, 0)
        move = tl.load(moves + at, mask=j > 0, other=0).to(tl.int32)
        at = tl.maximum(at - move, 0)
        moves -= BLOCK
        j -= 1
    tl.store(durations + row * tokens + token, count.to(tl.int64), mask=token < tokens)


def align_triton(
    log_prior: Float[Tensor, "b n t"], token_lengths: Int[Tensor, " b"], mel_lengths: Int[Tensor, " b"]
) -> Int[Tensor, "b n"]:
    """:func:`domains.speech.alignment.align` on a GPU (or under Triton's interpreter)."""
    value = log_prior.float()
    batch, tokens, frames = value.shape
    block = max(1 << (tokens - 1).bit_length(), 32)
    moves = torch.empty(batch, frames, block, dtype=torch.int8, device=value.device)
    durations = torch.zeros(batch, tokens, dtype=torch.int64, device=value.device)
    # What the decorator makes of a kernel takes meta-parameters; its stub knows only the function.
    launch: Any = _search[(batch,)]
    launch(
        value, moves, durations, token_lengths.contiguous(), mel_lengths.contiguous(), *value.stride(), tokens, frames,
        BLOCK=block, num_warps=min(max(block // 128, 1), 8),
    )  # fmt: skip
    return durations
