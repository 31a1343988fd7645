"""Monotonic alignment search: which token each mel frame belongs to.

Kim et al., "Glow-TTS" (arXiv 2005.11129), as Matcha-TTS uses it (arXiv 2309.03199).
A* = argmax over monotonic surjective paths a of sum_j log N(y_j; mu[a(j)], I), by dynamic programming over the frames:

    Q[i, j] = max(Q[i, j-1], Q[i-1, j-1]) + log N[i, j],   Q[0, 0] = log N[0, 0],

then back from (N-1, T-1); a tie stays on the token. On the CPU the packaged ``monotonic-alignment-search`` does it; on
a GPU a Triton kernel of ours (one program per utterance, nothing returns to the host) or, without Triton, the same
recursion in plain torch. No gradient passes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor


def log_prior(mu: Float[Tensor, "b n c"], mel: Float[Tensor, "b c t"]) -> Float[Tensor, "b n t"]:
    """log N(y_j; mu_i, I) for every token i and frame j, in float32 whatever the precision around it.

    It is -C/2 log 2pi - |y|^2/2 + <mu, y> - |mu|^2/2. Stored frame by frame (tokens contiguous), as
    the search reads it.
    """
    with torch.autocast(mu.device.type, enabled=False):
        mu, frames = mu.detach().float(), mel.detach().float().transpose(1, 2)
        constant = -0.5 * math.log(2.0 * math.pi) * mu.shape[2]
        frame_part = (constant - 0.5 * frames.square().sum(2)).unsqueeze(2)
        token_part = -0.5 * mu.square().sum(2).unsqueeze(1)
        with _full_precision():
            product = torch.bmm(frames, mu.transpose(1, 2))
        return (product + frame_part + token_part).transpose(1, 2)


@contextmanager
def _full_precision() -> Iterator[None]:
    """No TF32 in products, whatever the trainer allows: a log-density is a small difference of large numbers."""
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed


@torch.no_grad()
def align(
    log_prior: Float[Tensor, "b n t"], token_lengths: Int[Tensor, " b"], mel_lengths: Int[Tensor, " b"]
) -> Int[Tensor, "b n"]:
    """Frames of each token on the best path: at least 1 for a real token, 0 for padding; a row sums to its mel length.

    The search is undefined where an utterance has fewer frames than tokens. There the tokens at the end get one frame
    each and those before get none, without an error (lengths live on the device): leave such utterances out of data, or
    out of the loss.
    """
    if log_prior.is_cuda and _kernel_works(log_prior.device):
        from domains.speech.alignment_kernel import align_triton

        return align_triton(log_prior, token_lengths, mel_lengths)
    if log_prior.device.type == "cpu":
        try:
            from monotonic_alignment_search import maximum_path
        except ImportError:
            return align_torch(log_prior, token_lengths, mel_lengths)
        # The package also reads outside the lengths' rectangle where there are fewer frames than tokens: give those
        # rows to our own search.
        short = mel_lengths < token_lengths
        if bool(short.any()):
            return align_torch(log_prior, token_lengths, mel_lengths)
        tokens = torch.arange(log_prior.shape[1]) < token_lengths.unsqueeze(1)
        frames = torch.arange(log_prior.shape[2]) < mel_lengths.unsqueeze(1)
        mask = tokens.unsqueeze(2) & frames.unsqueeze(1)
        # Padding may hold anything, also what is not a number; the package multiplies by the mask.
        value = torch.where(mask, log_prior.float(), log_prior.new_zeros((), dtype=torch.float32)).contiguous()
        return maximum_path(value, mask.to(value.dtype)).sum(2).long()
    return align_torch(log_prior, token_lengths, mel_lengths)


@cache
def _kernel_works(device: torch.device) -> bool:
    """Whether Triton is there, compiles and is right on a small problem; asked once per device."""
    try:
        from domains.speech.alignment_kernel import align_triton

        value = torch.tensor([[[0.0, 1.0, 0.0, 2.0, 0.0], [0.0, 0.0, 3.0, 0.0, 1.0], [1.0, 0.0, 0.0, 2.5, 0.0]]])
        problem = value.to(device), torch.tensor([3], device=device), torch.tensor([5], device=device)
        if torch.equal(align_triton(*problem), align_torch(*problem)):
            return True
        reason = "it gives a wrong answer"
    except Exception as error:  # no Triton, no C compiler, an unknown chip: slower, but no reason to stop
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
    warnings.warn(f"alignment search on {device} goes without the Triton kernel ({reason}): slower", stacklevel=3)
    return False


@torch.no_grad()
def align_torch(
    log_prior: Float[Tensor, "b n t"], token_lengths: Int[Tensor, " b"], mel_lengths: Int[Tensor, " b"]
) -> Int[Tensor, "b n"]:
    """The same search in plain torch on any device: all utterances and tokens at once, no synchronisation."""
    log_prior = log_prior.float()
    batch, tokens, frames = log_prior.shape
    token = torch.arange(tokens, device=log_prior.device)
    never = log_prior.new_full((), -torch.inf)
    best = torch.where(token == 0, log_prior[:, :, 0], never)
    moves = torch.zeros(frames, batch, tokens, dtype=torch.bool, device=log_prior.device)
    for j in range(1, frames):
        before = torch.cat([never.expand(batch, 1), best[:, :-1]], dim=1)
        moves[j] = (best < before) | (token >= j)
        best = torch.where(token <= j, torch.maximum(best, before) + log_prior[:, :, j], never)
    last, length = token_lengths.long(), mel_lengths.long()
    durations = torch.zeros(batch, tokens, dtype=torch.long, device=log_prior.device)
    at = last - 1
    for j in reversed(range(frames)):
        here = (j < length).long()
        durations.scatter_add_(1, at.unsqueeze(1), here.unsqueeze(1))
        at = (at - here * moves[j].gather(1, at.unsqueeze(1)).squeeze(1).long()).clamp_min(0)
    return durations


def token_of_frame(durations: Float[Tensor, "b n"] | Int[Tensor, "b n"], frames: int) -> Int[Tensor, "b t"]:
    """The token that each of ``frames`` frames belongs to, from durations that may be fractional.

    It is the first i with frame < d_0 + ... + d_i. Frames past the end repeat the last column: mask them.
    """
    ends = durations.cumsum(1)
    frame = torch.arange(frames, device=durations.device, dtype=ends.dtype).expand(durations.shape[0], -1).contiguous()
    return torch.searchsorted(ends.contiguous(), frame, right=True).clamp_max(durations.shape[1] - 1)


def spread(per_token: Float[Tensor, "b n c"], token: Int[Tensor, "b t"]) -> Float[Tensor, "b c t"]:
    """Repeat each token's vector over its frames: a gather; the product with a 0/1 matrix costs n times as much."""
    return per_token.gather(1, token.unsqueeze(2).expand(-1, -1, per_token.shape[2])).transpose(1, 2)


def path(durations: Int[Tensor, "b n"] | Float[Tensor, "b n"], frames: int) -> Float[Tensor, "b n t"]:
    """The 0/1 alignment, for pictures and tests: ones where the frame belongs to the token, zeros past the end."""
    inside = torch.arange(frames, device=durations.device) < durations.sum(1, keepdim=True)
    token = token_of_frame(durations, frames).unsqueeze(1)
    rows = torch.arange(durations.shape[1], device=durations.device)[None, :, None]
    return ((token == rows) & inside.unsqueeze(1)).float()
