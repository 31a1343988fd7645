"""The rivals of RIVER's sparse past: a network that sees all known frames at once, and one that sees the last alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from domains.video.models.specs import FrameSpec
from domains.video.models.transformer import Block, RiverTransformer
from domains.video.past import draw_frames
from domains.video.river import RiverTask
from flowkit.cond import Cond
from flowkit.couplings.coupling import Batch
from flowkit.data import RawBatch
from flowkit.random import RandomSource
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.solver import Solution


class BlindTransformer(RiverTransformer):
    """RIVER's network with the past frame and its distance hidden: the reference alone."""

    def forward(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        """See :class:`RiverTransformer`."""
        hidden = {"past": torch.zeros_like(cond["past"]), "distance": torch.ones_like(cond["distance"])}
        return super().forward(inputs, times, Cond({**cond.values, **hidden}))


class _MaskedBlock(Block):
    """Tokens that ``seen`` (b, 1, 1, n) leaves out are attended to by none."""

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """The tokens after attention and perceptron."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        kept = F.scaled_dot_product_attention(q, k, v, seen, dropout_p=self.dropout if self.training else 0.0)
        x = x + F.dropout(self.out(kept.transpose(1, 2).flatten(2)), self.dropout, self.training)
        return x + self.mlp(self.norm2(x))


class AllPastTransformer(RiverTransformer):
    """RIVER's network over the tokens of the state and of every past frame: its cost grows with the past.

    ``past`` is (b, K, C, H, W) and ``distance`` (b, K); frames at a distance below 1 are not there.
    """

    def __init__(self, spec: FrameSpec, *, width: int = 256, heads: int = 4, **others: Any) -> None:
        super().__init__(spec, width=width, heads=heads, **others)
        self.enter = nn.Linear((spec.inputs + 1) * spec.channels, width)
        self.older = nn.Linear(spec.channels, width)
        for name in ("before", "middle", "after"):
            blocks = [_MaskedBlock(width, heads, block.dropout) for block in getattr(self, name)]
            setattr(self, name, nn.ModuleList(blocks))

    def forward(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        """See :class:`RiverTransformer`."""
        _, height, wide = self.latent
        here = self.enter(torch.cat([*inputs, cond["reference"].to(inputs[0])], 1).flatten(2).transpose(1, 2))
        row = self.row[:, None].expand(-1, wide, -1)
        column = self.column[None].expand(height, -1, -1)
        code = torch.cat((row, column), 2).flatten(0, 1)
        distance = cond["distance"]
        far = self.distance(distance.clamp_min(1).to(self.frequencies.dtype).log()[..., None].to(here.dtype))
        past = self.older(cond["past"].to(here.dtype).flatten(3).transpose(2, 3)) + code + far[:, :, None]
        extra = torch.stack(self._tokens(times, cond, here), 1)
        there = (distance >= 1).repeat_interleave(height * wide, 1)
        always = torch.ones(len(here), extra.shape[1] + here.shape[1], dtype=torch.bool, device=here.device)
        seen = torch.cat([always, there], 1)[:, None, None]
        x = torch.cat([extra.to(here.dtype), here + code, past.flatten(1, 2)], 1)
        kept: list[Tensor] = []
        for block in self.before:
            x = block(x, seen)
            kept.append(x)
        for block in self.middle:
            x = block(x, seen)
        for skip, block in zip(self.skips, self.after, strict=True):
            x = block(skip(torch.cat([x, kept.pop()], 2)), seen)
        first = extra.shape[1]
        x = self.leave(x[:, first : first + height * wide])
        return {"v": self.heads["v"](x.transpose(1, 2).unflatten(2, (height, wide)))}


class AllPastTask(RiverTask):
    """RIVER's task with every known frame in the condition instead of a random one."""

    def prepare(self, raw: RawBatch, generator: RandomSource | None = None) -> Batch:
        """Targets as RIVER draws them; past frames 0 .. m - 2, later ones at distances below 1."""
        frames = raw["frames"]
        n, length = frames.shape[:2]
        drawn = draw_frames(n, length, generator, device=frames.device)
        row = torch.arange(n, device=frames.device)
        latents = self.encode(frames)
        place = torch.arange(length - 2, device=frames.device)
        values = {
            "reference": latents[row, drawn.reference],
            "past": latents[:, : length - 2],
            "distance": drawn.reference[:, None] - place,
        }
        return Batch(x1=latents[row, drawn.target], cond=Cond(values, nulls={"distance": 1}))

    def roll(
        self,
        context: Tensor,
        *,
        sampler: Sampler,
        noise: Callable[[int], RandomSource | None] | None = None,
        **others: Any,
    ) -> Iterator[Solution]:
        """Predicted latents without end; all of the past is kept and seen."""
        known = list(self.encode(context).unbind(1))
        frame = 0
        while True:
            places = torch.arange(len(known) - 1, device=context.device)
            values = {
                "reference": known[-1],
                "past": torch.stack(known[:-1], 1),
                "distance": (len(known) - 1 - places).expand(len(context), -1),
            }
            generator = None if noise is None else noise(frame)
            with torch.no_grad():
                solution = self.objective.generate(
                    self.networks, known[-1], Cond(values, nulls={"distance": 1}), sampler=sampler, generator=generator
                )
            yield solution
            known.append(solution.x)
            frame += 1
