"""Who learns from whom: what a recipe's ``trainer.topology`` says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from flowkit.errors import UserError
from flowkit.train.decentralised.graph import Graph, Weighting
from flowkit.train.decentralised.schedule import DecayingWeights
from flowkit.train.optimisers import SGD, Optimiser

if TYPE_CHECKING:
    from flowkit.tasks import Task
    from flowkit.train.decentralised.team import Team
    from flowkit.train.trainer import Trainer

#: How the training data are dealt to the agents; see :class:`Gossip`.
Split = Literal["dealt", "blocks", "shared"]


class Topology(ABC):
    """Whether all processes train one model or each agent its own."""

    @abstractmethod
    def team(self, trainer: Trainer, task: Task, accelerator: Any) -> Team | None:
        """The agents of this process; None where all processes train one model.

        Raises:
            UserError: the training asks for what the topology cannot give.
        """


class OneModel(Topology):
    """All processes train one model: their gradients are averaged at each step."""

    def team(self, trainer: Trainer, task: Task, accelerator: Any) -> Team | None:
        return None


@dataclass(frozen=True, kw_only=True)
class Gossip(Topology):
    """Agents without a server: each trains a model of its own on data of its own and is pulled towards its neighbours.

    x_n <- x_n + b_k sum over neighbours m of (x_m - x_n) - a_k g_n(x_n), all from the old iterates (Swenson et al.
    2020, arXiv 2003.02818).

    Under ``torchrun`` each process is an agent, and gradients are not averaged; one process plays ``agents`` of them in
    turn, with the same numbers. ``trainer.batch`` is that of one agent. The averaged weights (``trainer.ema``) are each
    agent's own; what is evaluated, sampled and saved is the mean of them over the agents, which equals the average of
    the mean. ``trainer.schedule``, ``warmup`` and ``clip`` hold for each agent's step; ``trainer.lr`` and
    ``trainer.optimiser`` are not used: a learning rate of Adam is none for plain steps.

    Args:
        graph: ring (two neighbours each), exponential (those at distances 1, 2, 4, ... both ways), complete, or edges.
        agents: their number; 0 for one a process.
        edges: pairs of neighbours, agents numbered from 0; with ``graph: edges``.
        split: dealt gives each agent a random share of the training data once and for all, blocks the n-th of as many
            runs of consecutive samples (data sets lie by speaker, task or folder), shared deals anew in each epoch. An
            agent never sees another's share; each sample comes once an epoch.
        step: a_1, the step size.
        step_decay: a_k falls like k^-step_decay; above 1/2 and at most 1 in the theorems.
        mix: b_1; 0 means 1 / the largest eigenvalue of the graph's Laplacian.
        mix_decay: b_k falls like k^-mix_decay; less than step_decay, or the agents never agree.
        hold: steps in which both hardly fall: k is counted in units of it.
        every: mix at each so many steps.
        noise: deviation of isotropic noise added to the gradient; it helps out of saddles.
        weighting: laplacian pulls with b_k along each edge, metropolis with b_k / (1 + the larger degree).
        optimiser: an agent's own step. The theorems are those of plain SGD; momentum and Adam keep what is particular
            to an agent's data in their moments, which are not mixed.
        spread: evaluate each agent's own weights too.
    """

    graph: Literal["ring", "exponential", "complete", "edges"] = "ring"
    agents: int = 0
    edges: list[tuple[int, int]] = field(default_factory=list)
    split: Split = "dealt"
    step: float = 0.1
    step_decay: float = 0.6
    mix: float = 0.0
    mix_decay: float = 0.1
    hold: float = 1.0
    every: int = 1
    noise: float = 0.0
    weighting: Weighting = "laplacian"
    optimiser: Optimiser = field(default_factory=SGD)
    spread: bool = True

    def __post_init__(self) -> None:
        if self.agents < 0 or self.every < 1 or self.noise < 0:
            raise UserError(
                f"trainer.topology: agents ({self.agents}) and noise ({self.noise:g}) are not negative, every "
                f"({self.every}) is at least 1"
            )
        if (self.graph == "edges") != bool(self.edges):
            raise UserError("trainer.topology: edges go with graph: edges, and that needs them")
        _ = self.schedule

    @property
    def schedule(self) -> DecayingWeights:
        """a_k and b_k."""
        return DecayingWeights(self.step, self.step_decay, self.mix, self.mix_decay, self.hold)

    def drawn(self, agents: int) -> Graph:
        """The graph of so many agents."""
        return Graph.of(agents, self.edges) if self.graph == "edges" else Graph.named(self.graph, agents)

    def team(self, trainer: Trainer, task: Task, accelerator: Any) -> Team | None:
        from flowkit.train.decentralised.communicator import Distributed, InProcess
        from flowkit.train.decentralised.team import Team

        processes = accelerator.num_processes
        agents = self.agents or processes
        if processes > 1 and agents != processes:
            raise UserError(
                f"trainer.topology has {agents} agents and {processes} processes were started: make the numbers "
                "equal, or leave agents out"
            )
        if agents < 2:
            raise UserError(
                "trainer.topology: one agent has nobody to talk to: say trainer.topology.agents N, or start N "
                "processes with torchrun"
            )
        for asked, name, way in (
            (trainer.graphs, "trainer.graphs", "captured steps belong to one model: leave it out"),
            (trainer.parallel != "ddp", f"trainer.parallel {trainer.parallel}", "an agent holds a whole model"),
            (trainer.precision == "fp16", "trainer.precision fp16", "agents have no common scale: use bf16 or fp32"),
        ):
            if asked:
                raise UserError(f"{name} does not go with trainer.topology: {way}")
        for module in task.modules():
            if getattr(module, "over_processes", False):
                raise UserError(
                    f"{type(module).__name__} adds up numbers of all processes in each step, which agents without a "
                    "server do not share: train it without trainer.topology"
                )
        communicator = (Distributed if processes > 1 else InProcess)(self.drawn(agents), self.weighting)
        return Team(self, communicator, trainer, task, accelerator)
