"""A multi-layer perceptron over a flattened state and sines and cosines of time: for points and other small states."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.nn.network import Network, NetworkSpec


class MLP(Network):
    """``depth`` hidden layers of ``width``; every time enters as itself, sin(pi k t) and cos(pi k t) for k = 1 ..
    frequencies. Scalar heads have two hidden layers of their own on the first and the last layer: features that serve
    another head, and may be detached, need not hold what a scalar has to tell.

    Args:
        spec: what the objective asks for.
        dimension: elements of one state.
        width: of the hidden layers.
        depth: hidden layers.
        frequencies: sines and as many cosines of each time.
        labels: integer conditions (b,), name -> number of classes n; the label n is the null of a dropped condition.
        vectors: floating conditions (b, ...), name -> number of elements.
        dropout: chance that a hidden unit is dropped in training, in [0, 1).
    """

    frequencies: Tensor

    def __init__(
        self,
        spec: NetworkSpec,
        *,
        dimension: int = 2,
        width: int = 128,
        depth: int = 3,
        frequencies: int = 3,
        labels: dict[str, int] | None = None,
        vectors: dict[str, int] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(spec)
        if not 0.0 <= dropout < 1.0:
            raise UserError(f"MLP: dropout is a chance in [0, 1), not {dropout}")
        self.dimension, self.dropout = dimension, dropout
        self.vectors = tuple(vectors or {})
        self.embeddings = nn.ModuleDict({name: nn.Embedding(n + 1, width) for name, n in (labels or {}).items()})
        self.register_buffer("frequencies", math.pi * torch.arange(1, frequencies + 1), persistent=False)
        read = spec.inputs * dimension + spec.times * (1 + 2 * frequencies) + sum((vectors or {}).values())
        self.first = nn.Linear(read, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.heads = nn.ModuleDict(
            {head.name: nn.Linear(width, dimension) if head.shape == "state" else _scalar(width) for head in spec.heads}
        )

    def forward(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        """See :class:`Network`."""
        shape = inputs[0].shape
        parts = [x.flatten(1) for x in inputs]
        for t in times:
            t = t.to(parts[0].dtype)[:, None]
            phase = t * self.frequencies.to(t.dtype)
            parts += [t, phase.sin(), phase.cos()]
        parts += [cond[name].flatten(1) for name in self.vectors]
        h = self.first(torch.cat(parts, 1))
        for name, embedding in self.embeddings.items():
            h = h + embedding(cond[name])
        h = first = nn.functional.silu(h)
        for layer in self.hidden:
            h = nn.functional.silu(layer(h))
            if self.dropout:
                h = nn.functional.dropout(h, self.dropout, self.training)
        out: dict[str, Tensor] = {}
        for head in self.spec.heads:
            features = h if head.shape == "state" else torch.cat((first, h), 1)
            value = self.heads[head.name](features.detach() if head.detach else features)
            out[head.name] = value.reshape(shape) if head.shape == "state" else value[:, 0]
        return out

    @torch.no_grad()
    def begin_as(self, other: Network) -> None:
        """See :class:`Network`; times that the other lacks enter with weight 0."""
        super().begin_as(other)
        assert isinstance(other, MLP)
        each = 1 + 2 * len(self.frequencies)
        place = other.spec.inputs * self.dimension + other.spec.times * each
        more = (self.spec.times - other.spec.times) * each
        mine, theirs = self.first.weight, other.first.weight
        if more > 0 and self.spec.inputs == other.spec.inputs and mine.shape[1] == theirs.shape[1] + more:
            mine.zero_()
            mine[:, :place] = theirs[:, :place]
            mine[:, place + more :] = theirs[:, place:]


def _scalar(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
    )
