"""The decoder of Matcha-TTS (Mehta et al., arXiv 2309.03199): a 1-D U-Net with a Transformer block at every level.

It reads the state(s) (b, features, t), ``cond["mu"]`` of the same shape and, for several speakers or languages,
``cond["speaker"]`` (b, s), all concatenated on the channel axis. Where the official code lets padding into its
attention and its norms, this network is blind to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from domains.speech.models.layers import (
    Attention,
    Convolution,
    FrameMask,
    MaskedGroupNorm,
    SnakeBeta,
    Upsample,
    masked,
    sinusoidal,
)
from flowkit.cond import Cond
from flowkit.nn.dropout import Dropout
from flowkit.nn.network import Head, Network, NetworkSpec


class _Level:
    """The real frames of one resolution, in the forms that the layers read; computed once per forward."""

    def __init__(self, real: Tensor | None, frames: int) -> None:
        self.frames = frames
        self.real = real
        self.seen = None if real is None else real[:, None, None, :]
        self.mask: FrameMask = None if real is None else real.unsqueeze(2).float()
        self.count = frames if real is None else real.sum(1, keepdim=True).float().clamp_min(1.0)

    def halved(self) -> _Level:
        return _Level(None if self.real is None else self.real[:, ::2], (self.frames + 1) // 2)


class _TimeEmbedding(nn.Module):
    """Sinusoids of 1000 t and a two-layer perceptron."""

    def __init__(self, sinusoids: int, width: int) -> None:
        super().__init__()
        self.sinusoids = sinusoids
        self.first, self.second = nn.Linear(sinusoids, width), nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        return self.second(F.silu(self.first(sinusoidal(t, self.sinusoids))))


class _Block(nn.Module):
    """Convolution of three frames, group norm, Mish."""

    def __init__(self, channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.convolution = Convolution(channels, out_channels)
        self.norm = MaskedGroupNorm(groups, out_channels)

    def forward(self, x: Tensor, level: _Level) -> Tensor:
        return F.mish(self.norm(self.convolution(masked(x, level.mask)), level.mask, level.count))


class _ResNet(nn.Module):
    """Two blocks with the time added between, and a projected shortcut."""

    def __init__(self, channels: int, out_channels: int, time_width: int, groups: int) -> None:
        super().__init__()
        self.first, self.second = _Block(channels, out_channels, groups), _Block(out_channels, out_channels, groups)
        self.time = nn.Linear(time_width, out_channels) if time_width else None
        self.shortcut = nn.Linear(channels, out_channels)

    def forward(self, x: Tensor, time: Tensor | None, level: _Level) -> Tensor:
        hidden = self.first(x, level)
        if self.time is not None and time is not None:
            hidden = hidden + self.time(time).unsqueeze(1)
        return self.second(hidden, level) + self.shortcut(x)


class _Transformer(nn.Module):
    """Pre-norm attention without positions, and a feed-forward of four times the width with SnakeBeta."""

    def __init__(self, channels: int, heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = Attention(channels, heads, head_width, bias=False)
        self.widen, self.narrow = SnakeBeta(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, level: _Level) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), level.seen))
        return x + self.narrow(self.dropout(self.widen(self.feed_forward_norm(x))))


class _Stage(nn.Module):
    """A ResNet and its Transformer blocks."""

    def __init__(self, resnet: _ResNet, transformers: Sequence[_Transformer]) -> None:
        super().__init__()
        self.resnet, self.transformers = resnet, nn.ModuleList(transformers)

    def forward(self, x: Tensor, time: Tensor | None, level: _Level) -> Tensor:
        x = self.resnet(x, time, level)
        for transformer in self.transformers:
            x = transformer(x, level)
        return x


class _UNet(nn.Module):
    """The network itself: tensors in, tensors out, so that it compiles into one graph."""

    def __init__(
        self, spec: NetworkSpec, width: int, code: int, features: int, channels: tuple[int, ...], heads: int,
        head_width: int, middle: int, transformers: int, dropout: float, groups: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.outputs = spec.heads
        time_width = 4 * channels[0] if spec.times else 0
        self.times = nn.ModuleList([_TimeEmbedding(code + code % 2, time_width) for _ in range(spec.times)])

        def stage(size: int, out: int) -> _Stage:
            return _Stage(
                _ResNet(size, out, time_width, groups),
                [_Transformer(out, heads, head_width, dropout) for _ in range(transformers)],
            )

        last = len(channels) - 1
        self.down = nn.ModuleList([stage(size, out) for size, out in zip((width, *channels), channels, strict=False)])
        self.shrink = nn.ModuleList([Convolution(c, c, stride=1 if i == last else 2) for i, c in enumerate(channels)])
        self.middle = nn.ModuleList([stage(channels[-1], channels[-1]) for _ in range(middle)])
        # On the way up, level i reads its own skip (channels[i]) beside what comes from below (also channels[i]) and
        # hands on channels[i-1].
        finer = (channels[0], *channels[:-1])
        self.up = nn.ModuleList([stage(2 * channels[i], finer[i]) for i in reversed(range(len(channels)))])
        self.grow = nn.ModuleList(
            [Upsample(finer[i]) if i else Convolution(finer[0], finer[0]) for i in reversed(range(len(channels)))]
        )
        self.final = _Block(channels[0], channels[0], groups)
        self.heads = nn.ModuleDict(
            {h.name: nn.Linear(channels[0], features if h.shape == "state" else 1) for h in spec.heads}
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, times: Sequence[Tensor], real: Tensor | None) -> dict[str, Tensor]:
        """``x`` (b, t, c), ``times`` (b,) each, ``real`` bool (b, t) or None where nothing is padded."""
        if real is not None:
            x = torch.where(real.unsqueeze(2), x, x.new_zeros(()))  # not a product: padding may hold anything
        levels = [_Level(real, x.shape[1])]
        for _ in self.shrink[1:]:
            levels.append(levels[-1].halved())
        time = None
        for embed, t in zip(self.times, times, strict=True):
            time = embed(t) if time is None else time + embed(t)
        if time is not None:
            time = F.mish(time)

        skips: list[Tensor] = []
        for stage, shrink, level in zip(self.down, self.shrink, levels, strict=True):
            x = stage(x, time, level)
            skips.append(x)
            x = shrink(masked(x, level.mask))
        for stage in self.middle:
            x = stage(x, time, levels[-1])
        for stage, grow, level, finer in zip(
            self.up, self.grow, reversed(levels), [*reversed(levels[:-1]), levels[0]], strict=True
        ):
            x = stage(torch.cat([x, skips.pop()], dim=2), time, level)
            x = grow(masked(x, level.mask))[:, : finer.frames]  # an odd length gains a frame on the way up
        x = self.final(x, levels[0])
        return {head.name: self._output(head, x.detach() if head.detach else x, levels[0]) for head in self.outputs}

    def _output(self, head: Head, x: Tensor, level: _Level) -> Tensor:
        if head.shape == "state":
            return masked(self.heads[head.name](x), level.mask).transpose(1, 2)
        return self.heads[head.name](masked(x, level.mask).sum(1) / level.count).squeeze(1)


class MatchaDecoder(Network):
    """The velocity network of Matcha-TTS; the defaults have the published 11,008,848 parameters.

    Args:
        spec: what the objective asks for: more inputs widen the first layer, a second time gets its own embedding.
        features: channels of the state, the mel bins.
        channels: channels of each resolution, finest first; every one after the first halves the frame rate.
        condition: width of ``cond["speaker"]``; 0 where there is one speaker and one language.
        heads, head_width: of the attention.
        middle: blocks at the coarsest resolution.
        transformers: Transformer blocks in each stage.
        dropout: of the Transformer blocks.
        groups: of the group norms; divides every entry of ``channels``.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        features: int = 80,
        channels: Sequence[int] = (256, 256),
        condition: int = 0,
        heads: int = 2,
        head_width: int = 64,
        middle: int = 2,
        transformers: int = 1,
        dropout: float = 0.05,
        groups: int = 8,
    ) -> None:
        super().__init__(spec)
        channels = tuple(channels)
        if not channels or any(c % groups for c in channels):
            raise ValueError(f"channels {list(channels)} must be a list of multiples of groups = {groups}")
        self.features, self.condition = features, condition
        #: Numbers of frames that divide by this need no filling up on the way down.
        self.multiple = 2 ** (len(channels) - 1)
        width = (spec.inputs + 1) * features + condition
        # Times are coded alike however many states are read, so that one network can begin as another.
        code = 2 * features + condition
        self.body = _UNet(
            spec, width, code, features, channels, heads, head_width, middle, transformers, dropout, groups
        )  # fmt: skip

    def forward(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        """``inputs`` (b, features, t) each; reads ``cond["mu"]``, ``cond["speaker"]``, ``cond.padding`` (b, 1, t)."""
        x = torch.cat([*inputs, cond["mu"].to(inputs[0].dtype)], dim=1).transpose(1, 2)
        if self.condition:
            x = torch.cat([x, cond["speaker"].to(x.dtype).unsqueeze(1).expand(-1, x.shape[1], -1)], dim=2)
        real = None if cond.padding is None else cond.padding.expand(x.shape[0], 1, x.shape[1]).squeeze(1)
        # An exported program has no look at values: it keeps the masks.
        if real is not None and real.device.type == "cpu" and not torch.compiler.is_compiling() and bool(real.all()):
            real = None  # nothing is padded: spare the masks (a look at host memory, no synchronisation)
        return self.body(x, list(times), real)

    def time_codes(self) -> Sequence[nn.Module]:
        """See :class:`Network`."""
        return list(self.body.times)

    @torch.no_grad()
    def begin_as(self, other: Network) -> None:
        """See :class:`Network`; the weights of a convolution lie frame by frame, and each frame has a place for more
        states."""
        super().begin_as(other)
        place, more = other.spec.inputs * self.features, (self.spec.inputs - other.spec.inputs) * self.features
        if more > 0:
            layers = [network.get_submodule("body.down.0.resnet.first.convolution") for network in (self, other)]
            mine, theirs = (layer.frames_of_weight() for layer in layers if isinstance(layer, Convolution))
            mine.zero_()
            mine[:, :, :place] = theirs[:, :, :place]
            mine[:, :, place + more :] = theirs[:, :, place:]

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """As ``Module.compile``, of the tensor part only: one graph for all lengths, without the condition's lookup."""
        self.body.compile(*args, **{"dynamic": True, **kwargs})
