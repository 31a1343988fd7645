"""How agents see their neighbours: all in one process, or one a process over torch.distributed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.errors import UserError
from flowkit.train.decentralised.graph import Graph, Weighting


class Communicator(ABC):
    """The agents of this process, and what they learn of the others.

    Args:
        graph: who mixes with whom.
        weighting: how strongly.
    """

    def __init__(self, graph: Graph, weighting: Weighting = "laplacian") -> None:
        self.graph, self.weighting = graph, weighting
        self.table = graph.weights(weighting)
        values = torch.linalg.eigvalsh(graph.laplacian(weighting))
        self.largest = float(values[-1])

    @property
    @abstractmethod
    def agents(self) -> range:
        """Numbers of the agents that live in this process."""

    @abstractmethod
    def pulls(self, states: Sequence[Float[Tensor, " p"]]) -> list[Float[Tensor, " p"]]:
        """sum_m weight_nm (x_m - x_n) for the agents n of this process, from their ``states``."""

    @abstractmethod
    def mean(self, states: Sequence[Float[Tensor, " p"]]) -> Float[Tensor, " p"]:
        """The average over all agents of all processes."""


class InProcess(Communicator):
    """All agents in one process: to try a topology, and to test the others against."""

    @property
    def agents(self) -> range:
        return range(self.graph.agents)

    def pulls(self, states: Sequence[Float[Tensor, " p"]]) -> list[Float[Tensor, " p"]]:
        return [
            sum(
                (float(self.table[n, m]) * (states[m] - states[n]) for m in self.graph.neighbours(n)),
                start=torch.zeros_like(states[n]),
            )
            for n in self.agents
        ]

    def mean(self, states: Sequence[Float[Tensor, " p"]]) -> Float[Tensor, " p"]:
        return torch.stack(list(states)).mean(0)


class Distributed(Communicator):
    """One agent a process, over the default group of torch.distributed (gloo, nccl).

    A complete graph of equal weights costs one reduction; other graphs one message to and from each neighbour.

    Raises:
        UserError: there is no process group, or its size is not the graph's.
    """

    def __init__(self, graph: Graph, weighting: Weighting = "laplacian") -> None:
        from torch import distributed

        super().__init__(graph, weighting)
        if not distributed.is_available() or not distributed.is_initialized():
            raise UserError("decentralised training needs one process an agent: start it with torchrun")
        if distributed.get_world_size() != graph.agents:
            raise UserError(
                f"the graph has {graph.agents} agents and {distributed.get_world_size()} processes were started: "
                "make the numbers equal"
            )
        self.rank = distributed.get_rank()

    @property
    def agents(self) -> range:
        return range(self.rank, self.rank + 1)

    def pulls(self, states: Sequence[Float[Tensor, " p"]]) -> list[Float[Tensor, " p"]]:
        from torch import distributed

        (mine,) = states
        others = self.graph.neighbours(self.rank)
        weights = {float(self.table[self.rank, m]) for m in others}
        if len(others) == self.graph.agents - 1 and len(weights) == 1 and self._everybody_alike():
            total = mine.clone()
            distributed.all_reduce(total)
            return [weights.pop() * (total - self.graph.agents * mine)]
        received = {m: torch.empty_like(mine) for m in others}
        # All receives and sends are posted together: blocking ones would wait for each other round a ring.
        posted = [distributed.P2POp(distributed.irecv, received[m], m) for m in others]
        posted += [distributed.P2POp(distributed.isend, mine.contiguous(), m) for m in others]
        for request in distributed.batch_isend_irecv(posted) if posted else ():
            request.wait()
        return [
            sum((float(self.table[self.rank, m]) * (received[m] - mine) for m in others), start=torch.zeros_like(mine))
        ]

    def _everybody_alike(self) -> bool:
        """Whether all processes will take the short cut."""
        off = self.table[~torch.eye(self.graph.agents, dtype=torch.bool)]
        return bool((off == off[0]).all()) if off.numel() else False

    def mean(self, states: Sequence[Float[Tensor, " p"]]) -> Float[Tensor, " p"]:
        from torch import distributed

        total = states[0].clone()
        distributed.all_reduce(total)
        return total / self.graph.agents
