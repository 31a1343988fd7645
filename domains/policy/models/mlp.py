"""A multi-layer perceptron over a whole action chunk: enough for low-dimensional tasks, and fast on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from domains.policy.models.layers import Sinusoids, perceptron
from domains.policy.models.specs import ChunkSpec
from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.nn.network import Network


class ChunkMLP(Network):
    """SiLU layers on the flattened chunk(s), the observation vector and sinusoids of the time(s).

    A scalar head is a perceptron of its own on the last shared features, the observation and the time. One that is
    detached sends no gradient into any of them.

    Args:
        spec: what the objective and the task ask for. Without inputs and times it is a plain regression on the
            observation.
        width: of the hidden layers.
        depth: hidden layers, at least 1.
        sinusoids: of each time; even.
        head_width: of the hidden layers of scalar heads.
        head_depth: hidden layers of scalar heads.

    Raises:
        UserError: a size out of its range.
    """

    def __init__(
        self,
        spec: ChunkSpec,
        *,
        width: int = 256,
        depth: int = 3,
        sinusoids: int = 32,
        head_width: int = 128,
        head_depth: int = 2,
    ) -> None:
        super().__init__(spec)
        if min(width, depth, head_width) < 1 or head_depth < 0:
            raise UserError(
                f"ChunkMLP: width {width}, depth {depth} and head_width {head_width} must be at least 1, head_depth "
                f"{head_depth} at least 0"
            )
        self.chunk = (spec.horizon, spec.actions)
        size = spec.horizon * spec.actions
        around = spec.condition + spec.times * sinusoids
        self.code = Sinusoids(sinusoids) if spec.times else None
        self.layers = nn.ModuleList(nn.Linear(width if i else spec.inputs * size + around, width) for i in range(depth))
        self.heads = nn.ModuleDict(
            {
                head.name: nn.Linear(width, size)
                if head.shape == "state"
                else perceptron(width + around, head_width, head_depth, 1)
                for head in spec.heads
            }
        )

    def forward(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        """``inputs`` (b, horizon, actions) each; reads ``cond["observation"]`` (b, condition)."""
        observation = cond["observation"]
        around = [observation]
        if self.code is not None:
            around += [self.code(t).to(observation.dtype) for t in times]
        h = torch.cat([*(x.flatten(1) for x in inputs), *around], 1)
        for layer in self.layers:
            h = F.silu(layer(h))
        out: dict[str, Tensor] = {}
        for head in self.spec.heads:
            if head.shape == "state":
                out[head.name] = self.heads[head.name](h.detach() if head.detach else h).unflatten(1, self.chunk)
                continue
            read = torch.cat([h, *around], 1)
            out[head.name] = self.heads[head.name](read.detach() if head.detach else read)[:, 0]
        return out
