"""The network of RIVER: a transformer over the pixels of a latent frame, with long skips (U-ViT-like).

Davtyan, Sameni and Favaro 2022, "Efficient Video Prediction via Sparsely Conditioned Flow Matching" (arXiv 2211.14575);
the skips are those of Bao et al. 2022, "All are Worth Words" (arXiv 2209.12152).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from domains.video.models.specs import FrameSpec
from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.nn.dropout import Dropout, dropout
from flowkit.nn.network import Network


class Block(nn.Module):
    """Pre-norm self-attention and a GELU perceptron of four times the width."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(4 * width, width),
            Dropout(dropout),
        )

    def forward(self, x: Float[Tensor, "b n width"]) -> Float[Tensor, "b n width"]:
        """The tokens after attention and perceptron."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        x = x + dropout(self.out(seen.transpose(1, 2).flatten(2)), self.dropout, self.training)
        return x + self.mlp(self.norm2(x))


class RiverTransformer(Network):
    """One token per latent pixel of (state, reference, past), a token per time, and one for the action.

    ``blocks`` (in, middle, out): the outputs of the in blocks reach the out blocks, last first, by a linear layer on
    [x, skip]. The position code is learnt, half of it for the row and half for the column; the distance code is a
    perceptron of its logarithm. With the defaults and a latent of 4 x 8 x 8 it has 97,697,796 parameters.

    Args:
        spec: what the objective and the task ask for.
        width: of the tokens; a multiple of 2 and of ``heads``.
        heads: of the attention.
        blocks: numbers of in, middle and out blocks; as many out as in.
        dropout: after attention and inside the perceptrons.

    Raises:
        UserError: sizes that do not fit each other.
    """

    frequencies: Tensor

    def __init__(
        self,
        spec: FrameSpec,
        *,
        width: int = 768,
        heads: int = 8,
        blocks: Sequence[int] = (4, 5, 4),
        dropout: float = 0.05,
    ) -> None:
        super().__init__(spec)
        if width < 2 or heads < 1 or width % 2 or width % heads:
            raise UserError(f"RiverTransformer: width {width} must be a multiple of 2 and of heads ({heads})")
        if len(blocks) != 3 or min(blocks) < 0 or blocks[0] != blocks[2] or not 0.0 <= dropout < 1.0:
            raise UserError(
                f"RiverTransformer: blocks {list(blocks)} are [in, middle, out] with as many out as in, "
                f"dropout {dropout:g} lies in [0, 1)"
            )
        self.latent = (spec.channels, spec.height, spec.width)
        self.enter = nn.Linear((spec.inputs + 2) * spec.channels, width)
        self.row = nn.Parameter(torch.empty(spec.height, width // 2).uniform_(-1, 1))
        self.column = nn.Parameter(torch.empty(spec.width, width // 2).uniform_(-1, 1))
        self.distance = nn.Sequential(nn.Linear(1, 256), nn.ReLU(), nn.Linear(256, width))
        self.action = nn.Linear(spec.actions, width) if spec.actions else None
        # Attention knows no order: a second time needs a mark of its own.
        self.which = nn.Parameter(torch.zeros(spec.times - 1, width)) if spec.times > 1 else None
        decay = torch.arange(width // 2) / (width // 2)
        self.register_buffer("frequencies", 200.0 * torch.exp(-math.log(1e4) * decay), persistent=False)
        self.before, self.middle, self.after = (
            nn.ModuleList(Block(width, heads, dropout) for _ in range(count)) for count in blocks
        )
        self.skips = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(blocks[2]))
        self.leave = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.heads = nn.ModuleDict(
            {
                head.name: nn.Conv2d(width, spec.channels, 3, padding=1)
                if head.shape == "state"
                else nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
                for head in spec.heads
            }
        )

    def forward(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        """``inputs`` (b, C, H, W) each; reads ``reference``, ``past``, ``distance`` and ``action`` (see
        :class:`FrameSpec`)."""
        _, height, wide = self.latent
        x = torch.cat([*inputs, cond["reference"].to(inputs[0]), cond["past"].to(inputs[0])], 1)
        x = self.enter(x.flatten(2).transpose(1, 2))
        row = self.row[:, None].expand(-1, wide, -1)
        column = self.column[None].expand(height, -1, -1)
        far = self.distance(cond["distance"].to(self.frequencies.dtype).log()[:, None].to(x.dtype))
        x = x + torch.cat((row, column), 2).flatten(0, 1) + far[:, None]
        extra = self._tokens(times, cond, x)
        if extra:
            x = torch.cat([torch.stack(extra, 1), x], 1)
        kept: list[Tensor] = []
        for block in self.before:
            x = block(x)
            kept.append(x)
        for block in self.middle:
            x = block(x)
        for skip, block in zip(self.skips, self.after, strict=True):
            x = block(skip(torch.cat([x, kept.pop()], 2)))
        x = self.leave(x[:, len(extra) :])
        image = x.transpose(1, 2).unflatten(2, (height, wide))
        out: dict[str, Tensor] = {}
        for head in self.spec.heads:
            read = image if head.shape == "state" else x.mean(1)
            value = self.heads[head.name](read.detach() if head.detach else read)
            out[head.name] = value if head.shape == "state" else value[:, 0]
        return out

    def _tokens(self, times: Sequence[Tensor], cond: Cond, x: Tensor) -> list[Tensor]:
        """One (b, width) token a time, cosines first, and one for the action."""
        tokens: list[Tensor] = []
        for place, t in enumerate(times):
            phase = t.to(self.frequencies.dtype)[:, None] * self.frequencies
            token = torch.cat((phase.cos(), phase.sin()), 1).to(x.dtype)
            tokens.append(token if place == 0 or self.which is None else token + self.which[place - 1])
        if self.action is not None:
            tokens.append(self.action(cond["action"].to(x.dtype)))
        return tokens
