"""A small causal transformer over the points of trajectories, with a cache of keys and values for sampling.

Pre-norm blocks (Xiong et al. 2020, arXiv 2002.04745). A point and its time become ``tokens`` tokens by a perceptron
("space tokens" of CaLMFlow, He et al. 2024, arXiv 2410.05292); the output is read off the tokens of the same point.
Conditions are tokens in front, a vector or a label each.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.nn.dropout import Dropout
from flowkit.nn.network import NetworkSpec
from flowkit.nn.sequence import SequenceNetwork

__all__ = ["CausalTransformer", "PointCoder"]

#: Added to the variance of a latent, so that it never closes.
_LEAST_VARIANCE = 1e-4


class PointCoder(SequenceNetwork):
    """What sequence networks share: points and conditions to tokens (b, n, width), and hidden states to heads.

    Args:
        spec: what the objective asks for; ``spec.state`` must be known.
        width: of a token.
        tokens: of each point.
        frequencies: sines and as many cosines of the time.
        labels, vectors: conditions by name, their number of classes and of elements, beside those that the task tells.

    Raises:
        UserError: a number below 1, or a task that does not tell the shape of its states.
    """

    rates: Tensor

    def __init__(
        self,
        spec: NetworkSpec,
        *,
        width: int,
        tokens: int = 1,
        frequencies: int = 4,
        labels: Mapping[str, int] | None = None,
        vectors: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(spec)
        name = type(self).__name__
        if min(width, tokens, frequencies) < 1:
            raise UserError(f"{name}: width {width}, tokens {tokens} and frequencies {frequencies} must be at least 1")
        if not spec.state:
            raise UserError(
                f"{name} must know the shape of a state, and this task does not tell it: use another network"
            )
        if (spec.inputs, spec.times) != (1, 1):
            raise UserError(f"{name} reads one state and one time at each point, not {spec.inputs} and {spec.times}")
        self.tokens, self.width = tokens, width
        size, self.members = math.prod(spec.state), max(1, spec.sequence)
        self.encoder = nn.Sequential(
            nn.Linear(size + 1 + 2 * frequencies, 2 * width), nn.SiLU(), nn.Linear(2 * width, tokens * width)
        )
        self.member = nn.Parameter(0.02 * torch.randn(self.members, tokens, width))
        self.vectors = nn.ModuleDict({k: nn.Linear(n, width) for k, n in {**spec.vectors, **(vectors or {})}.items()})
        self.labels = nn.ModuleDict(
            {k: nn.Embedding(n + 1, width) for k, n in {**spec.labels, **(labels or {})}.items()}
        )
        self.register_buffer("rates", math.pi * torch.arange(1, frequencies + 1), persistent=False)
        if spec.latent:
            self.mean, self.log_variance = (nn.Linear(tokens * width, spec.latent) for _ in range(2))
            self.decoder = nn.Sequential(
                nn.Linear(spec.latent, 2 * width), nn.SiLU(), nn.Linear(2 * width, 2 * width), nn.SiLU(),
                nn.Linear(2 * width, size),
            )  # fmt: skip
        else:
            self.out = nn.ModuleDict({head.name: nn.Linear(tokens * width, size) for head in spec.heads})

    @abstractmethod
    def forward_points(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        """The heads at all points at once."""

    def forward(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        """See :class:`SequenceNetwork`."""
        if self.spec.sequence:
            return self.forward_points(inputs, times, cond)
        heads = self.forward_points([inputs[0][:, None]], [times[0][:, None]], cond)
        return {name: value[:, 0] for name, value in heads.items()}

    def prefix(self, rows: int, cond: Cond) -> Float[Tensor, "b k width"]:
        """The conditions as tokens; where they have p rows for each sequence, p tokens each."""
        parts = [layer(cond[name].flatten(1)) for name, layer in self.vectors.items()]
        parts += [table(cond[name]) for name, table in self.labels.items()]
        if not parts:
            return self.member.new_zeros(rows, 0, self.width)
        return torch.cat([part.reshape(rows, -1, self.width) for part in parts], 1)

    def embed(
        self, inputs: Sequence[Float[Tensor, "b n *d"]], times: Sequence[Float[Tensor, "b n"]]
    ) -> Float[Tensor, "b k width"]:
        """The tokens of points; sequences begin with the first trajectory."""
        x, t = inputs[0].flatten(2), times[0].to(inputs[0].dtype)[:, :, None]
        phase = t * self.rates.to(t.dtype)
        tokens = self.encoder(torch.cat([x, t, phase.sin(), phase.cos()], 2)).unflatten(2, (self.tokens, self.width))
        turns = self.member.repeat(math.ceil(x.shape[1] / self.members), 1, 1)[: x.shape[1]]
        return (tokens + turns).flatten(1, 2)

    def read(self, hidden: Float[Tensor, "b k width"]) -> dict[str, Tensor]:
        """The heads of the points whose tokens ``hidden`` belong to."""
        h = hidden.unflatten(1, (-1, self.tokens)).flatten(2)
        if self.spec.latent:
            return {"mean": self.mean(h), "variance": self.log_variance(h).exp() + _LEAST_VARIANCE}
        return {name: layer(h).unflatten(2, self.spec.state) for name, layer in self.out.items()}

    def decode(self, latent: Float[Tensor, "b n l"]) -> Float[Tensor, "b n *d"]:
        """See :class:`SequenceNetwork`."""
        return self.decoder(latent).unflatten(2, self.spec.state)


class Memory(NamedTuple):
    """Keys and values (b, heads, k, width / heads) of each layer, and how many of them belong to conditions."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    conditions: int


class CausalTransformer(PointCoder):
    """A causal transformer over the points of trajectories.

    Args:
        spec: what the objective asks for.
        width: of a token.
        layers: blocks.
        heads: of attention; must divide ``width``.
        tokens: of each point.
        expansion: of the perceptron inside a block.
        dropout: in training, after attention and perceptron.
        window: time steps that a point sees, itself included; 0: all before it. 1 makes it a network of the current
            state and time.
        frequencies: sines and as many cosines of the time.
        labels, vectors: see :class:`PointCoder`.

    Raises:
        UserError: a number out of its range.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        *,
        width: int = 64,
        layers: int = 2,
        heads: int = 2,
        tokens: int = 1,
        expansion: int = 4,
        dropout: float = 0.0,
        window: int = 0,
        frequencies: int = 4,
        labels: dict[str, int] | None = None,
        vectors: dict[str, int] | None = None,
    ) -> None:
        super().__init__(spec, width=width, tokens=tokens, frequencies=frequencies, labels=labels, vectors=vectors)
        if layers < 1 or heads < 1 or width % heads or window < 0 or not 0.0 <= dropout < 1.0:
            raise UserError(
                f"CausalTransformer: layers {layers} must be at least 1, heads {heads} divide width {width}, window "
                f"{window} be at least 0 and dropout {dropout:g} lie in [0, 1)"
            )
        self.window, self.heads = window, heads
        self.blocks = nn.ModuleList(_Block(width, heads, expansion * width, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward_points(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        """See :class:`PointCoder`."""
        front = self.prefix(inputs[0].shape[0], cond)
        h = torch.cat([front, self.embed(inputs, times)], 1)
        mask = self._mask(front.shape[1], h.shape[1], h.shape[1], h.device) if self.window else None
        for block in self.blocks:
            h, _ = block(h, None, mask)
        return self.read(self.norm(h[:, front.shape[1] :]))

    def begin(self, rows: int, cond: Cond) -> Memory:
        """See :class:`SequenceNetwork`."""
        front = self.prefix(rows, cond)
        empty = front.new_zeros(rows, self.heads, 0, self.width // self.heads)
        memory = Memory(tuple((empty, empty) for _ in self.blocks), front.shape[1])
        return self._advance(memory, front)[1] if front.shape[1] else memory

    def extend(
        self, memory: Memory, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond
    ) -> tuple[dict[str, Tensor], Memory]:
        """See :class:`SequenceNetwork`."""
        h, memory = self._advance(memory, self.embed(inputs, times))
        return self.read(self.norm(h)), memory

    def _advance(self, memory: Memory, h: Tensor) -> tuple[Tensor, Memory]:
        total = memory.layers[0][0].shape[2] + h.shape[1]
        mask = self._mask(memory.conditions, h.shape[1], total, h.device)
        layers: list[tuple[Tensor, Tensor]] = []
        for block, past in zip(self.blocks, memory.layers, strict=True):
            h, kept = block(h, past, mask)
            layers.append(kept)
        return h, Memory(tuple(layers), memory.conditions)

    def _mask(self, conditions: int, queries: int, keys: int, device: torch.device) -> Tensor:
        """Which of ``keys`` tokens each of the last ``queries`` sees (queries, keys)."""
        key = torch.arange(keys, device=device)
        query = key[keys - queries :, None]
        seen = key <= query
        if self.window:
            each = self.tokens * self.members
            apart = (query - conditions).div(each, rounding_mode="floor") - (key - conditions).div(
                each, rounding_mode="floor"
            )
            seen = seen & ((apart < self.window) | (key < conditions))
        return seen


class _Block(nn.Module):
    """Attention, then a perceptron, each beside a shortcut."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
        self.dropout = Dropout(dropout)

    def forward(
        self, h: Tensor, past: tuple[Tensor, Tensor] | None, mask: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """``mask`` None is the causal one."""
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.project(self.first(h)).chunk(3, 2)
        )
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        h = h + self.dropout(self.merge(seen.transpose(1, 2).flatten(2)))
        return h + self.dropout(self.perceptron(self.second(h))), (k, v)
