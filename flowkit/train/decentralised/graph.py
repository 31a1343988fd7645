"""Who mixes with whom, and how strongly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.errors import UserError, nearest

#: ``laplacian``: every neighbour counts 1 (times b_k). ``metropolis``: 1 / (1 + the larger degree of the two), which
#: needs no knowledge of the whole graph and is stable for b_k <= 1.
Weighting = Literal["laplacian", "metropolis"]


@dataclass(frozen=True)
class Graph:
    """An undirected, connected graph of agents 0 .. ``agents`` - 1.

    Args:
        agents: how many.
        edges: pairs (m, n) with m < n.

    Raises:
        UserError: an edge leads nowhere or to itself, or the graph is in pieces.
    """

    agents: int
    edges: frozenset[tuple[int, int]]

    def __post_init__(self) -> None:
        for m, n in self.edges:
            if not 0 <= m < n < self.agents:
                raise UserError(f"edge ({m}, {n}): agents are numbered 0 to {self.agents - 1}, the smaller one first")
        reached, queue = {0}, [0]
        while queue:
            for n in self.neighbours(queue.pop()):
                if n not in reached:
                    reached.add(n)
                    queue.append(n)
        if len(reached) < self.agents:
            alone = min(set(range(self.agents)) - reached)
            raise UserError(f"the graph is in pieces: agent {alone} cannot be reached from agent 0")

    @classmethod
    def of(cls, agents: int, edges: Iterable[tuple[int, int]]) -> Graph:
        """From pairs in any order."""
        return cls(agents, frozenset((min(m, n), max(m, n)) for m, n in edges))

    @classmethod
    def named(cls, name: str, agents: int) -> Graph:
        """``ring`` (two neighbours each), ``exponential`` (at distances 1, 2, 4, ... both ways) or ``complete``.

        Raises:
            UserError: no such graph, or no agents.
        """
        makers = {"ring": [1], "exponential": [2**i for i in range(agents.bit_length()) if 2**i < agents]}
        makers["complete"] = list(range(1, agents))
        if name not in makers:
            raise UserError(f"no graph is called {name!r}; {nearest(name, makers)}")
        if agents < 1:
            raise UserError(f"a graph has at least one agent, not {agents}")
        return cls.of(agents, ((n, (n + far) % agents) for n in range(agents) for far in makers[name] if far % agents))

    def neighbours(self, agent: int) -> list[int]:
        """In increasing order."""
        return sorted({m if n == agent else n for m, n in self.edges if agent in (m, n)})

    def weights(self, weighting: Weighting = "laplacian") -> Float[Tensor, "n n"]:
        """Symmetric, float64: how strongly m pulls n; 0 where there is no edge, and on the diagonal."""
        degree = [len(self.neighbours(n)) for n in range(self.agents)]
        table = torch.zeros(self.agents, self.agents, dtype=torch.float64)
        for m, n in self.edges:
            pull = 1.0 if weighting == "laplacian" else 1.0 / (1 + max(degree[m], degree[n]))
            table[m, n] = table[n, m] = pull
        return table

    def laplacian(self, weighting: Weighting = "laplacian") -> Float[Tensor, "n n"]:
        """Degrees minus weights: X -> X - b Lap X is one mixing."""
        table = self.weights(weighting)
        return table.sum(1).diag() - table

    @cached_property
    def spectrum(self) -> tuple[float, float]:
        """Second smallest and largest eigenvalue of the Laplacian: mixing with 0 < b < 2 / largest contracts the
        disagreement by max(|1 - b second|, |1 - b largest|)."""
        values = torch.linalg.eigvalsh(self.laplacian())
        return (float(values[1]), float(values[-1])) if self.agents > 1 else (0.0, 0.0)
