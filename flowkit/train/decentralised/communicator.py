"""How agents see their neighbours: all in one process, or one a process over torch.distributed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
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
    def pulls(self, states: Sequence[Float[Tensor, " p"]], *, exact: int = 0) -> list[Float[Tensor, " p"]]:
        """sum_m weight_nm (x_m - x_n) for the agents n of this process, from their ``states``. Of the last ``exact``
        numbers, those that all have in common are pulled by exactly 0, infinite ones too."""

    @abstractmethod
    def mean(self, states: Sequence[Float[Tensor, " p"]], *, exact: int = 0) -> Float[Tensor, " p"]:
        """The average over all agents of all processes; of the last ``exact`` numbers, those that all have in common
        stay the same bits."""

    def total(self, value: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        """The sum of a tensor over processes."""
        return value

    def _pull(
        self, n: int, mine: Float[Tensor, " p"], theirs: Mapping[int, Float[Tensor, " p"]], exact: int
    ) -> Float[Tensor, " p"]:
        """Towards the states of the neighbours."""
        pull = torch.zeros_like(mine)
        for m, state in theirs.items():
            difference = state - mine
            if exact:  # inf - inf would be no number
                difference[-exact:].masked_fill_((state == mine)[-exact:], 0.0)
            pull.add_(difference, alpha=float(self.table[n, m]))
        return pull


class InProcess(Communicator):
    """All agents in one process: to try a topology, and to test the others against."""

    @property
    def agents(self) -> range:
        return range(self.graph.agents)

    def pulls(self, states: Sequence[Float[Tensor, " p"]], *, exact: int = 0) -> list[Float[Tensor, " p"]]:
        return [self._pull(n, states[n], {m: states[m] for m in self.graph.neighbours(n)}, exact) for n in self.agents]

    def mean(self, states: Sequence[Float[Tensor, " p"]], *, exact: int = 0) -> Float[Tensor, " p"]:
        stacked = torch.stack(list(states))
        mean = stacked.mean(0)
        return torch.where(_last(exact, mean) & (stacked == stacked[0]).all(0), stacked[0], mean) if exact else mean


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

    def pulls(self, states: Sequence[Float[Tensor, " p"]], *, exact: int = 0) -> list[Float[Tensor, " p"]]:

        (mine,) = states
        others = self.graph.neighbours(self.rank)
        weights = {float(self.table[self.rank, m]) for m in others}
        if len(others) == self.graph.agents - 1 and len(weights) == 1 and self._everybody_alike():
            # The sum rounds, so what must be exact goes the long way.
            first, last = mine[: len(mine) - exact], mine[len(mine) - exact :]
            pull = weights.pop() * (self.total(first) - self.graph.agents * first)
            return [torch.cat([pull, self._exchanged(last, exact)]) if exact else pull]
        return [self._exchanged(mine, exact)]

    def _exchanged(self, mine: Float[Tensor, " p"], exact: int) -> Float[Tensor, " p"]:
        """The pull of this agent, by a message to and from each neighbour."""
        from torch import distributed

        others = self.graph.neighbours(self.rank)
        received = {m: torch.empty_like(mine) for m in others}
        # All receives and sends are posted together: blocking ones would wait for each other round a ring.
        posted = [distributed.P2POp(distributed.irecv, received[m], m) for m in others]
        posted += [distributed.P2POp(distributed.isend, mine.contiguous(), m) for m in others]
        for request in distributed.batch_isend_irecv(posted) if posted else ():
            request.wait()
        return self._pull(self.rank, mine, received, exact)

    def _everybody_alike(self) -> bool:
        """Whether all processes will take the short cut."""
        off = self.table[~torch.eye(self.graph.agents, dtype=torch.bool)]
        return bool((off == off[0]).all()) if off.numel() else False

    def mean(self, states: Sequence[Float[Tensor, " p"]], *, exact: int = 0) -> Float[Tensor, " p"]:
        from torch import distributed

        mean = self.total(states[0]) / self.graph.agents
        if exact:
            least, most = states[0][-exact:].clone(), states[0][-exact:].clone()
            distributed.all_reduce(least, distributed.ReduceOp.MIN)
            distributed.all_reduce(most, distributed.ReduceOp.MAX)
            mean[-exact:] = torch.where(least == most, least, mean[-exact:])
        return mean

    def total(self, value: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        from torch import distributed

        total = value.clone()
        distributed.all_reduce(total)
        return total


def _last(n: int, row: Float[Tensor, " p"]) -> Bool[Tensor, " p"]:
    """True at the last ``n`` places of the row."""
    return torch.arange(len(row), device=row.device) >= len(row) - n
