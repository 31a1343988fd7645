"""Vector quantisation: each latent vector becomes the nearest of a codebook's.

van den Oord, Vinyals and Kavukcuoglu 2017, "Neural Discrete Representation Learning" (arXiv 1711.00937): the gradient
passes straight through, and the loss is |sg(z) - e|^2 + beta |z - sg(e)|^2 with beta on the *commitment* of z. (RIVER's
repository has it the other way round.) The codebook learns by the first term, or by running averages of the latents
that chose each code (the paper's appendix A.1), which take that term's place.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from flowkit.errors import UserError
from flowkit.random import RandomSource, uniform

#: Distances held at once: 2^22 float32 are 16 MiB, which caches hold.
_DISTANCES = 1 << 22


class Quantised(NamedTuple):
    """What quantisation makes of latents.

    Attributes:
        latents: the codes' vectors; their gradient is that of the latents.
        codes: number of each code.
        commitment: mean of |z - sg(e)|^2 over a sample's elements, unweighted.
        codebook: mean of |sg(z) - e|^2 over a sample's elements; no gradient where averages move the codebook.
    """

    latents: Float[Tensor, "b C H W"]
    codes: Int[Tensor, "b H W"]
    commitment: Float[Tensor, " b"]
    codebook: Float[Tensor, " b"]


class VectorQuantiser(nn.Module):
    """A codebook of ``codes`` vectors.

    A code that no latent chose in ``patience`` steps is dead. It restarts at a latent of the batch that is drawn in
    proportion to its squared error, so that codes go where they are missing: in pictures with much plain background, a
    uniform draw would put them all on the background. Before the first step all are dead.

    Args:
        codes: vectors in the codebook.
        channels: elements of a vector.
        update: ``average`` moves codes by running averages; ``gradient`` by the codebook's term of the loss.
        decay: of the running averages, in [0, 1).
        patience: steps until an unused code restarts; 0 never.

    Raises:
        UserError: a number out of range.
    """

    #: Its codebook moves by what all processes saw.
    over_processes = True
    codebook: Tensor
    counts: Tensor
    sums: Tensor
    idle: Tensor

    def __init__(
        self,
        codes: int,
        channels: int,
        *,
        update: Literal["average", "gradient"] = "average",
        decay: float = 0.99,
        patience: int = 100,
    ) -> None:
        super().__init__()
        if update not in ("average", "gradient"):
            raise UserError(f"VectorQuantiser: update is average or gradient, not {update!r}")
        if codes < 2 or channels < 1 or patience < 0 or not 0.0 <= decay < 1.0:
            raise UserError(
                f"VectorQuantiser: codes ({codes}) is at least 2, channels ({channels}) at least 1, patience "
                f"({patience}) at least 0, decay ({decay:g}) in [0, 1)"
            )
        self.update, self.decay, self.patience = update, decay, patience
        start = torch.empty(codes, channels).uniform_(-1.0, 1.0)
        if update == "average":
            self.register_buffer("codebook", start)
            self.register_buffer("counts", torch.ones(codes))
            self.register_buffer("sums", start.clone())
        else:
            self.codebook = nn.Parameter(start)
        self.register_buffer("idle", torch.full((codes,), patience, dtype=torch.int64))
        # Latents of this step with their codes and the scores of the draw: (n, C), (n,), (n,). Kept till after_step.
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def nearest(self, vectors: Float[Tensor, "n C"]) -> Int[Tensor, " n"]:
        """Number of the nearest code of each vector, the first of equals.

        Summed channel by channel, not by a matrix product: exact for near codes also where products are rounded to
        TF32, and the same for a vector alone or among others.
        """
        codebook = self.codebook.detach().float()
        rows = max(1, _DISTANCES // len(codebook))
        found = []
        flat = vectors.detach().float()
        # An exported program takes any number of vectors, all at once.
        for part in (flat,) if torch.compiler.is_exporting() else flat.split(rows):
            distance = (part[:, :1] - codebook[:, 0]).square_()
            for channel in range(1, codebook.shape[1]):
                distance += (part[:, channel, None] - codebook[:, channel]).square_()
            found.append(distance.argmin(1))
        return torch.cat(found) if found else torch.empty(0, dtype=torch.int64, device=vectors.device)

    def codes_of(self, latents: Float[Tensor, "b C H W"]) -> Int[Tensor, "b H W"]:
        """Number of the nearest code of each latent pixel."""
        flat = latents.permute(0, 2, 3, 1)
        return self.nearest(flat.flatten(0, 2)).unflatten(0, flat.shape[:3])

    def vectors(self, codes: Int[Tensor, "b H W"]) -> Float[Tensor, "b C H W"]:
        """The codes' vectors."""
        return F.embedding(codes, self.codebook).permute(0, 3, 1, 2)

    def forward(
        self, latents: Float[Tensor, "b C H W"], *, generator: RandomSource | None = None, learn: bool = True
    ) -> Quantised:
        """Quantise; in training mode, and unless ``learn`` is False, remember the latents for :meth:`after_step`.

        Args:
            latents: of the encoder.
            generator: of the draw among latents where dead codes restart.
            learn: whether the codebook learns from these latents.
        """
        with torch.autocast(latents.device.type, enabled=False):
            z = latents.float()
            with torch.no_grad():
                codes = self.codes_of(z)
            e = F.embedding(codes, self.codebook.float()).permute(0, 3, 1, 2)
            commitment = (z - e.detach()).square().flatten(1).mean(1)
            codebook = (z.detach() - e).square().flatten(1).mean(1)
            if self.training and learn:
                self._remember(z.detach(), codes, e.detach(), generator)
            # e's value with z's gradient, in this order: z + (e - z) would round.
            through = e.detach() + (z - z.detach())
        return Quantised(through, codes, commitment, codebook)

    @torch.no_grad()
    def _remember(self, z: Tensor, codes: Tensor, e: Tensor, generator: RandomSource | None) -> None:
        draws = uniform(tuple(codes.shape), generator, device=z.device)
        # The largest of error / exponential: a draw without replacement in proportion to the error.
        scores = (z - e).square().sum(1) / -draws.log()
        self._seen.append((z.permute(0, 2, 3, 1).flatten(0, 2), codes.flatten(), scores.flatten()))

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the codebook by what was seen since the last call, and restart dead codes; with several processes, by
        what all of them saw."""
        if not self._seen:
            return
        z, codes, scores = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        self._seen.clear()
        n = torch.zeros(len(self.codebook), device=z.device).index_add_(0, codes, torch.ones_like(scores))
        total = torch.zeros_like(self.codebook, dtype=torch.float32).index_add_(0, codes, z)
        if _several():
            torch.distributed.all_reduce(n)
            torch.distributed.all_reduce(total)
        chosen = n > 0
        if self.update == "average":
            self.counts.mul_(self.decay).add_(n, alpha=1.0 - self.decay)
            self.sums.mul_(self.decay).add_(total, alpha=1.0 - self.decay)
            mean = self.sums / self.counts[:, None]
            self.codebook.copy_(torch.where(chosen[:, None], mean, self.codebook))
        self.idle.add_(1).masked_fill_(chosen, 0)
        if self.patience:
            self._restart(z, scores)

    def _restart(self, z: Tensor, scores: Tensor) -> None:
        dead = (self.idle > self.patience).nonzero()[:, 0]
        if not len(dead):
            return
        start = _of_first(z[scores.topk(min(len(dead), max(1, len(z) // 2))).indices])
        dead = dead[: len(start)]
        self.codebook[dead] = start.to(self.codebook.dtype)
        self.idle[dead] = 0
        if self.update == "average":
            self.counts[dead] = 1.0
            self.sums[dead] = start


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _of_first(rows: Tensor) -> Tensor:
    """The first process's rows on all of them: codebooks must not part."""
    if not _several():
        return rows
    count = torch.tensor([len(rows)], device=rows.device)
    torch.distributed.broadcast(count, 0)
    if torch.distributed.get_rank():
        rows = rows.new_empty(int(count), *rows.shape[1:])
    rows = rows.contiguous()
    torch.distributed.broadcast(rows, 0)
    return rows


def perplexity(codes: Int[Tensor, "*n"], size: int) -> Float[Tensor, ""]:
    """exp of the entropy of how often each of ``size`` codes is used: 1 where all are one code, ``size`` where all are
    used alike."""
    flat = codes.flatten()
    # Not bincount, which makes the host wait for a GPU.
    used = torch.zeros(size, device=codes.device).index_add_(0, flat, torch.ones(len(flat), device=codes.device))
    share = used / max(len(flat), 1)
    return torch.special.entr(share).sum().exp()
