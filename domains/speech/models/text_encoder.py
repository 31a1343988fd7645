"""The text encoder of Matcha-TTS (Mehta et al., arXiv 2309.03199): tokens to mean mel frames and log-durations.

Embedding, a convolutional prenet, post-norm Transformer layers with rotary positions on the first half of each head,
and two outputs: one mel frame per token (mu) and, behind a stop-gradient, the log-duration of each token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from domains.speech.models.layers import Attention, Convolution, FrameMask, masked, rotary_angles
from flowkit.nn.dropout import Dropout

_EPS = 1e-4


@dataclass(frozen=True)
class EncoderSizes:
    """Sizes of :class:`TextEncoder`; the defaults are the published ones (7,195,345 parameters with 178 symbols).

    Args:
        width: channels of embedding and layers (a speaker or language vector widens the layers).
        filter_width: hidden channels of the feed-forward convolutions.
        heads: attention heads; the layers' width must be divisible by four times as many.
        layers: Transformer layers.
        kernel: frames that a feed-forward convolution reads.
        prenet_layers: convolutions of five frames before the Transformer; 0 for none.
        dropout: of the Transformer and the duration predictor.
        prenet_dropout: of the prenet.
        duration_width: channels of the duration predictor.
    """

    width: int = 192
    filter_width: int = 768
    heads: int = 2
    layers: int = 6
    kernel: int = 3
    prenet_layers: int = 3
    dropout: float = 0.1
    prenet_dropout: float = 0.5
    duration_width: int = 256


class Encoded(NamedTuple):
    """What the encoder says about each token: a mel frame, a log-duration (in frames) and whether it is real."""

    mu: Float[Tensor, "b n c"]
    log_durations: Float[Tensor, "b n"]
    real: Bool[Tensor, "b n"]


class DurationPredictor(nn.Module):
    """Two convolutions of three tokens with ReLU and layer norm, and one number per token: the log of its frames."""

    def __init__(self, channels: int, width: int = 256, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList([Convolution(channels, width), Convolution(width, width)])
        self.norms = nn.ModuleList([nn.LayerNorm(width, eps=_EPS), nn.LayerNorm(width, eps=_EPS)])
        self.dropout = Dropout(dropout)
        self.to_log_duration = nn.Linear(width, 1)

    def forward(self, x: Float[Tensor, "b n c"], mask: FrameMask) -> Float[Tensor, "b n"]:
        """Log-durations, 0 on padding."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = self.dropout(norm(F.relu(convolution(masked(x, mask)))))
        return masked(self.to_log_duration(x), mask).squeeze(2)


class _Prenet(nn.Module):
    """Convolutions of five tokens and a projection that starts at zero, added to the input."""

    def __init__(self, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList([Convolution(width, width, 5) for _ in range(layers)])
        self.norms = nn.ModuleList([nn.LayerNorm(width, eps=_EPS) for _ in range(layers)])
        self.dropout = Dropout(dropout)
        self.projection = nn.Linear(width, width)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, x: Tensor, mask: FrameMask) -> Tensor:
        hidden = x
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            hidden = self.dropout(F.relu(norm(convolution(masked(hidden, mask)))))
        return x + self.projection(hidden)


class _Layer(nn.Module):
    """Post-norm: attention, add, norm; two convolutions, add, norm."""

    def __init__(self, width: int, sizes: EncoderSizes) -> None:
        super().__init__()
        head_width = width // sizes.heads
        self.attention = Attention(width, sizes.heads, head_width, bias=True, dropout=sizes.dropout)
        for part in self.attention.to_qkv.weight.chunk(3):
            nn.init.xavier_uniform_(part)
        self.attention_norm = nn.LayerNorm(width, eps=_EPS)
        self.widen = Convolution(width, sizes.filter_width, sizes.kernel)
        self.narrow = Convolution(sizes.filter_width, width, sizes.kernel)
        self.feed_forward_norm = nn.LayerNorm(width, eps=_EPS)
        self.dropout = Dropout(sizes.dropout)

    def forward(self, x: Tensor, mask: FrameMask, real: Tensor | None, angles: tuple[Tensor, Tensor]) -> Tensor:
        x = self.attention_norm(x + self.dropout(self.attention(x, real, angles)))
        hidden = self.dropout(F.relu(self.widen(masked(x, mask))))
        return self.feed_forward_norm(x + self.dropout(self.narrow(masked(hidden, mask))))


class TextEncoder(nn.Module):
    """Tokens (b, n) to :class:`Encoded`.

    Args:
        symbols: size of the vocabulary.
        features: mel bins.
        sizes: widths and depths.
        condition: width of the vector that says speaker and language; it is concatenated behind the prenet. 0 for none.
    """

    def __init__(self, symbols: int, features: int, sizes: EncoderSizes | None = None, *, condition: int = 0) -> None:
        super().__init__()
        sizes = sizes or EncoderSizes()
        width = sizes.width + condition
        if width % (4 * sizes.heads):
            raise ValueError(
                f"the encoder's width ({sizes.width} plus {condition} for speaker and language) must be divisible by "
                f"4 * heads = {4 * sizes.heads}"
            )
        self.condition, self.rotary = condition, width // sizes.heads // 2
        self.embedding = nn.Embedding(symbols, sizes.width)
        nn.init.normal_(self.embedding.weight, 0.0, sizes.width**-0.5)
        self.prenet = _Prenet(sizes.width, sizes.prenet_layers, sizes.prenet_dropout) if sizes.prenet_layers else None
        self.layers = nn.ModuleList([_Layer(width, sizes) for _ in range(sizes.layers)])
        self.to_mu = nn.Linear(width, features)
        self.durations = DurationPredictor(width, sizes.duration_width, dropout=sizes.dropout)

    def forward(
        self, tokens: Int[Tensor, "b n"], lengths: Int[Tensor, " b"], speaker: Float[Tensor, "b s"] | None = None
    ) -> Encoded:
        """``lengths``: real tokens of each row; ``speaker``: the condition's vector where the encoder has one."""
        real = torch.arange(tokens.shape[1], device=tokens.device) < lengths.unsqueeze(1)
        x = self.embedding(tokens) * math.sqrt(self.embedding.embedding_dim)
        mask, seen = real.unsqueeze(2).to(x.dtype), real[:, None, None, :]
        if self.prenet is not None:
            x = self.prenet(x, mask)
        if self.condition:
            if speaker is None:
                raise ValueError("this encoder was built for several speakers or languages: it needs their vector")
            x = torch.cat([x, speaker.to(x.dtype).unsqueeze(1).expand(-1, x.shape[1], -1)], dim=2)
        angles = rotary_angles(x.shape[1], self.rotary, device=x.device)
        for layer in self.layers:
            x = layer(x, mask, seen, angles)
        # The duration predictor must not pull at the encoder (stop-gradient of the paper).
        return Encoded(masked(self.to_mu(x), mask), self.durations(x.detach(), mask), real)
