"""The network of a sequence, and the velocity field it is for the core's solvers: time counts frames."""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.fields.field import Evaluation, Field


class SceneNetwork(nn.Module):
    """f(p, tau, d): metres a frame at the point p, tau in [-0.5, 0.5] the place in the sequence, d the direction in
    time. Xavier weights, ReLU, no codes of the position, as the official code has it.

    Args:
        width: of the hidden layers.
        depth: hidden layers.
        scale: metres by which positions are divided; 1 as published, 10 for short trainings.

    Raises:
        UserError: a number out of range.
    """

    def __init__(self, *, width: int = 128, depth: int = 8, scale: float = 10.0) -> None:
        super().__init__()
        if min(width, depth) < 1 or not scale > 0:
            raise UserError(f"SceneNetwork: width {width}, depth {depth} and scale {scale} must be positive")
        self.scale = scale
        sizes = [5] + [width] * depth
        layers: list[nn.Module] = []
        for read, out in itertools.pairwise(sizes):
            layers += [nn.Linear(read, out), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 3))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, p: Float[Tensor, "n 3"], tau: Float[Tensor, " n"], direction: float) -> Float[Tensor, "n 3"]:
        """Displacement of one frame in the direction."""
        told = torch.stack([tau.to(p.dtype), torch.full_like(p[:, 0], direction)], 1)
        return self.layers(torch.cat([p / self.scale, told], 1))


class SceneField(Field):
    """dx/di at the frame time i. Forward it is f(., +1); backward, minus f(., -1), so that a step back in time adds f.

    Args:
        network: of the sequence.
        length: frames of the sequence.
        direction: +1 or -1, that of the solve.
        frozen: a frame's time that the network sees throughout, instead of the solve's.
    """

    def __init__(self, network: SceneNetwork, length: int, direction: int = 1, frozen: float | None = None) -> None:
        self.network, self.length, self.direction, self.frozen = network, length, direction, frozen

    def __call__(self, x: Float[Tensor, "n 3"], t: Float[Tensor, " n"], cond: Cond | None = None) -> Evaluation:
        frame = t if self.frozen is None else torch.full_like(t, self.frozen)
        tau = frame / max(self.length - 1, 1) - 0.5 if self.length > 1 else torch.zeros_like(t)
        return Evaluation(self.direction * self.network(x, tau, float(self.direction)))
