"""Agents with quadratic losses, in one process or one a process."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from flowkit.train.decentralised.communicator import Communicator, Distributed
from flowkit.train.decentralised.dsgd import DecentralisedSGD, flat
from flowkit.train.decentralised.graph import Graph
from flowkit.train.decentralised.schedule import DecayingWeights

SCHEDULE = DecayingWeights(step=0.1, step_decay=0.6, mix=0.0, mix_decay=0.1)


def start(agent: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(agent)
    return [
        nn.Parameter(torch.randn(3, generator=generator, dtype=torch.float64)),
        nn.Parameter(torch.randn(2, 2, generator=generator, dtype=torch.float64)),
    ]


def gradient(agent: int, tensors: list[Tensor]) -> None:
    """Of |x - agent|^2 / 2, written into the tensors."""
    for tensor in tensors:
        tensor.grad = tensor.detach() - agent


def train(communicator: Communicator, steps: int, *, momentum: float = 0.0) -> list[Tensor]:
    agents = [start(n) for n in communicator.agents]
    dsgd = DecentralisedSGD(
        agents, lambda p: torch.optim.SGD(p, lr=1.0, momentum=momentum), communicator=communicator, schedule=SCHEDULE
    )
    for _ in range(steps):
        for number, tensors in zip(communicator.agents, agents, strict=True):
            gradient(number, tensors)
        dsgd.step()
    return [flat(tensors) for tensors in agents]


def all_graphs(folder: str) -> None:
    """The same over gloo, graph after graph; each process writes its agents."""
    torch.distributed.init_process_group("gloo")
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    for graph in ("ring", "exponential", "complete"):
        communicator = Distributed(Graph.named(graph, world))
        (state,) = train(communicator, 20, momentum=0.5)
        torch.save((state, communicator.mean([state])), Path(folder) / f"{graph}-{rank}.pt")
    torch.distributed.destroy_process_group()
