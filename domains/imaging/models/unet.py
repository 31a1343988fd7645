"""A compact U-Net over pictures, conditioned by scales and shifts.

The shape of Ronneberger et al. (arXiv 1505.04597) with the residual blocks of Ho et al. (arXiv 2006.11239): group norm,
SiLU, convolution; times and class enter as a scale and shift of the channels in every block (Perez et al., arXiv
1709.07871); self-attention where the picture is smallest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from domains.imaging.models.specs import PictureSpec
from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.nn.network import Network


class TimeCode(nn.Module):
    """Sines and cosines of a time at ``width`` / 2 angular frequencies from 1 to 200, in float32, and two layers."""

    frequencies: Tensor

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        frequencies = torch.logspace(0.0, math.log10(200.0), width // 2)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * (width // 2), out), nn.SiLU(), nn.Linear(out, out))

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b n"]:
        phase = t.float()[:, None] * self.frequencies
        return self.layers(torch.cat((phase.sin(), phase.cos()), 1))


class _Block(nn.Module):
    """Two convolutions with a scale and shift between them, and a shortcut."""

    def __init__(self, channels: int, out: int, condition: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(math.gcd(channels, groups), channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1)
        )
        self.norm = nn.GroupNorm(math.gcd(out, groups), out)
        self.film = nn.Linear(condition, 2 * out)
        self.last = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(out, out, 3, padding=1))
        self.shortcut = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()
        # The block begins as its shortcut.
        nn.init.zeros_(self.last[-1].weight)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(self.last[-1].bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm(self.first(x)), 1.0 + scale)
        return self.last(h) + self.shortcut(x)


class _Attention(nn.Module):
    """Self-attention over all pixels, added to its input."""

    def __init__(self, channels: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(math.gcd(channels, groups), channels)
        self.read, self.write = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        height = x.shape[2]
        q, k, v = rearrange(self.read(self.norm(x)), "b (n h c) y x -> n b h (y x) c", n=3, h=self.heads).unbind(0)
        seen = F.scaled_dot_product_attention(q, k, v)
        return x + self.write(rearrange(seen, "b h (y x) c -> b (h c) y x", y=height))


class PictureUNet(Network):
    """U-Net over pictures; scalar heads read the mean of its coarsest features.

    Args:
        spec: what the objective and the task ask for: inputs are concatenated on the channels, each time has a code,
            and codes are added to each other and to the class's.
        widths: channels of each level, finest first; each level has half the height and width of the one before.
        blocks: residual blocks of a level, on the way down and (one more) on the way up.
        heads: of the self-attention in the middle; 0 for none.
        groups: of the group norms, at most.
        code: width of what times and class become.
        dropout: in the blocks.

    Raises:
        UserError: the pictures cannot be halved so often, or the sizes do not fit each other.
    """

    def __init__(
        self,
        spec: PictureSpec,
        *,
        widths: Sequence[int] = (64, 96, 128),
        blocks: int = 1,
        heads: int = 4,
        groups: int = 8,
        code: int = 192,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(spec)
        widths = list(widths)
        if not widths or min(*widths, blocks, groups, code) < 1 or heads < 0 or (heads and widths[-1] % heads):
            raise UserError(
                f"PictureUNet: widths {widths}, blocks {blocks}, groups {groups}, code {code} must be positive, and "
                f"the last width a multiple of heads = {heads}"
            )
        fold = 2 ** (len(widths) - 1)
        if spec.height % fold or spec.width % fold:
            raise UserError(
                f"PictureUNet: {len(widths)} levels need a height and width that are multiples of {fold}, not "
                f"{spec.height} x {spec.width}: take fewer widths, or pad the pictures"
            )
        self.times = nn.ModuleList(TimeCode(128, code) for _ in range(spec.times))
        self.label = nn.Embedding(spec.classes + 1, code) if spec.classes else None
        self.base = nn.Parameter(torch.zeros(code))
        # Without inputs it begins with learnt marks, by which it tells the pixels apart.
        self.grid = None if spec.inputs else nn.Parameter(torch.randn(1, spec.channels, spec.height, spec.width))

        def block(channels: int, out: int) -> _Block:
            return _Block(channels, out, code, groups, dropout)

        self.enter = nn.Conv2d(max(spec.inputs, 1) * spec.channels, widths[0], 3, padding=1)
        self.down, self.shrink, self.up, self.grow = (nn.ModuleList() for _ in range(4))
        kept, channels = [widths[0]], widths[0]
        for level, width in enumerate(widths):
            for _ in range(blocks):
                self.down.append(block(channels, width))
                kept.append(channels := width)
            if level + 1 < len(widths):
                self.shrink.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                kept.append(width)
        self.middle = nn.ModuleList((block(channels, channels), block(channels, channels)))
        self.attention = _Attention(channels, heads, groups) if heads else nn.Identity()
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.up.append(block(channels + kept.pop(), width))
                channels = width
            if level:
                self.grow.append(nn.Conv2d(width, width, 3, padding=1))
        self.blocks, self.levels = blocks, len(widths)
        self.leave = nn.Sequential(nn.GroupNorm(math.gcd(channels, groups), channels), nn.SiLU())
        self.heads = nn.ModuleDict()
        for head in spec.heads:
            if head.shape == "state":
                self.heads[head.name] = layer = nn.Conv2d(channels, spec.channels, 3, padding=1)
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
            else:
                self.heads[head.name] = nn.Sequential(nn.Linear(widths[-1], code), nn.SiLU(), nn.Linear(code, 1))

    def time_codes(self) -> Sequence[nn.Module]:
        """See :class:`Network`."""
        return list(self.times)

    def condition(self, times: Sequence[Tensor], cond: Cond, n: int) -> Float[Tensor, "b n"]:
        """One vector a sample for all blocks."""
        code = self.base.expand(n, -1)
        for embed, t in zip(self.times, times, strict=True):
            code = code + embed(t)
        if self.label is not None:
            code = code + self.label(cond["label"])
        return F.silu(code)

    def forward(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        """``inputs`` (b, c, h, w) each; reads ``cond["label"]`` where the task has classes."""
        if self.grid is None:
            n, x = inputs[0].shape[0], torch.cat(list(inputs), 1) if len(inputs) > 1 else inputs[0]
        else:
            n = times[0].shape[0] if times else cond["label"].shape[0]
            x = self.grid.expand(n, -1, -1, -1)
        condition = self.condition(times, cond, n)
        x = self.enter(x)
        skips, down, up = [x], iter(self.down), iter(self.up)
        for level in range(self.levels):
            for block in itertools.islice(down, self.blocks):
                skips.append(x := block(x, condition))
            if level < len(self.shrink):
                skips.append(x := self.shrink[level](x))
        x = self.attention(self.middle[0](x, condition))
        x = coarsest = self.middle[1](x, condition)
        for level in range(self.levels):
            for block in itertools.islice(up, self.blocks + 1):
                x = block(torch.cat((x, skips.pop()), 1), condition)
            if level < len(self.grow):
                x = self.grow[level](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        x = self.leave(x)
        out: dict[str, Tensor] = {}
        for head in self.spec.heads:
            features = x if head.shape == "state" else coarsest.mean((2, 3))
            value = self.heads[head.name](features.detach() if head.detach else features)
            out[head.name] = value if head.shape == "state" else value[:, 0]
        return out
