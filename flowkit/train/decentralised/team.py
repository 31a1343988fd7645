"""The agents of a training: their weights, steps and averages, one after the other in one process or one a process.

A task is one object. Where a process plays several agents, the tensors of one of them are in it at a time; the others'
wait. With one agent a process nothing moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flowkit.random import mix_seed
from flowkit.tasks import Phase, Task
from flowkit.train import random_state
from flowkit.train.decentralised.communicator import Communicator
from flowkit.train.decentralised.dsgd import add_flat, check_mixing, flat
from flowkit.train.decentralised.own_data import order_of
from flowkit.train.ema import EMA
from flowkit.train.loader import Order, Share
from flowkit.train.schedules import ScheduleName
from flowkit.train.turns import Turn, Turns
from flowkit.train.window import Window

if TYPE_CHECKING:
    from flowkit.train.decentralised.topology import Gossip
    from flowkit.train.trainer import Trainer

_NOISE = 0x0153


@dataclass
class Agent:
    """One agent of this process.

    Args:
        number: among all.
        tensors: its parameters and buffers, while those of another are in the task.
        optimisers: one for each phase.
        ema: its averaged weights, or None.
        random: torch's global generators, while another's are in place.
    """

    number: int
    tensors: dict[str, Tensor] = field(default_factory=dict)
    optimisers: list[torch.optim.Optimizer] = field(default_factory=list)
    ema: EMA | None = None
    random: dict[str, Tensor] = field(default_factory=dict)


class AgentTurn(Turn):
    """A phase whose learning rate also falls by the decaying weights.

    Args:
        decay: a_k / a_1 of the step, from 0.
        others: as for :class:`flowkit.train.turns.Turn`.
    """

    def __init__(self, decay: Callable[[int], float], *others: Any, **options: Any) -> None:
        super().__init__(*others, **options)
        self.decay = decay

    def schedule(self, step: int, name: ScheduleName, warmup: int, floor: float, elapsed: float = 0.0) -> float:
        lr = super().schedule(step, name, warmup, floor, elapsed) * self.decay(step)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        return lr


class Team:
    """Steps, mixes and averages the agents of this process.

    Args:
        settings: the recipe's.
        communicator: who mixes with whom, and over what.
        trainer: the other settings.
        task: what is trained.
        accelerator: of the run.
    """

    def __init__(
        self, settings: Gossip, communicator: Communicator, trainer: Trainer, task: Task, accelerator: Any
    ) -> None:
        check_mixing(settings.schedule, communicator.largest)
        self.settings, self.communicator, self.trainer = settings, communicator, trainer
        self.task, self.accelerator = task, accelerator
        self.agents = [Agent(number) for number in communicator.agents]
        self.inside = self.agents[0]

    @property
    def count(self) -> int:
        """Number of all agents."""
        return self.communicator.graph.agents

    @property
    def order(self) -> Callable[..., Order]:
        """What makes the order of the data."""
        return order_of(self.settings.split, self.count)

    def describe(self) -> str:
        """A line for people."""
        start = self.settings
        a, b = start.schedule.at(1, self.communicator.largest)
        k = "k" if start.hold == 1 else f"(1 + (k - 1) / {start.hold:g})"
        where = "one a process" if len(self.agents) < self.count else "in one process"
        return (
            f"{self.count} agents, {start.graph} graph, {where}: {type(start.optimiser).__name__}, "
            f"a = {a:.4g} {k}^-{start.step_decay:g}, b = {b:.4g} {k}^-{start.mix_decay:g}, data {start.split}; "
            "trainer.lr and trainer.optimiser are not used"
        )

    def facts(self) -> dict[str, Any]:
        """What a run's summary says."""
        return {"agents": self.count, "graph": self.settings.graph, "split": self.settings.split}

    # Before the loop

    def turn(self, phase: Phase, number: int, named: Mapping[str, nn.Parameter]) -> Turn:
        """A phase as the agents take it."""
        schedule = self.settings.schedule
        if phase.lr is not None:  # what it has of its own is the ratio
            phase = replace(phase, lr=schedule.step * phase.lr / (self.trainer.lr or 1.0))
        return AgentTurn(
            lambda step: schedule.at(step + 1, 0.0)[0] / schedule.step, phase, number, named,
            optimiser=self.settings.optimiser, lr=schedule.step, steps=self.trainer.steps,
        )  # fmt: skip

    def assemble(self, turns: Turns, named: Mapping[str, nn.Parameter], seed: int) -> None:
        """Give each agent its optimisers, averages and generators; all begin with the weights of the first one."""
        self.turns, self.named, self.seed = turns, named, seed
        followers = tuple(self.task.networks.prefix(name) for name in self.task.networks.leaders)
        kept = {name for name, _ in self.task.named_buffers()} & self.task.state_dict().keys()
        kept |= {name for name, _ in self.task.named_parameters() if followers and name.startswith(followers)}
        #: Tensors besides the weights that learn which an agent has for itself: statistics, target networks.
        self.others = sorted(kept - named.keys())
        if self.count > len(self.agents):
            for tensor in self._tensors().values():
                torch.distributed.broadcast(tensor.data, 0)
        for place, agent in enumerate(self.agents):
            random_state.seed_process(seed, agent.number)
            agent.random = random_state.capture(self.accelerator.device)
            agent.tensors = {name: value.clone() for name, value in self._tensors().items()}
            agent.optimisers = [
                turn.optimiser if place == 0 else self.settings.optimiser.build(turn.parameters, turn.lr)
                for turn in turns.turns
            ]
            agent.ema = EMA(named, self.trainer.ema) if self.trainer.ema > 0 else None
        self.inside = self.agents[-1]
        self.enter(self.agents[0])

    def _tensors(self) -> dict[str, Tensor]:
        """The live tensors of the task that an agent has for itself; a task may have replaced some."""
        buffers = dict(self.task.named_buffers())
        parameters = dict(self.task.named_parameters()) if len(self.others) > 0 else {}
        found: dict[str, Tensor] = dict(self.named)
        return found | {name: buffers[name] if name in buffers else parameters[name] for name in self.others}

    # One agent at a time

    def enter(self, agent: Agent) -> None:
        """Put the agent's tensors, optimisers and generators in place of another's."""
        if agent is self.inside:
            return
        device = self.accelerator.device
        live = self._tensors()
        self.inside.tensors = {name: value.data for name, value in live.items()}
        self.inside.random = random_state.capture(device)
        for name, value in live.items():
            value.data = agent.tensors[name]
        for turn, optimiser in zip(self.turns.turns, agent.optimisers, strict=True):
            turn.optimiser = optimiser
        random_state.restore(agent.random, device)
        self.inside = agent

    def tensors_of(self, agent: Agent) -> dict[str, Tensor]:
        """The agent's tensors by name, wherever they are."""
        if agent is self.inside:
            return {name: value.data for name, value in self._tensors().items()}
        return agent.tensors

    def step(self, step: int, share: Share, window: Window, elapsed: float) -> None:
        """One step of each agent of this process on its part of ``share``, mixing included."""
        schedule, largest = self.settings.schedule, self.communicator.largest
        a, b = schedule.at(step + 1, largest)
        # Neighbours are seen as they were before anybody stepped: mixing after the step is another method.
        pulls = None
        if (step + 1) % self.settings.every == 0:
            states = [self._mixed(self.tensors_of(agent)) for agent in self.agents]
            rows = [flat(state) for state in states]
            pulls = self.communicator.pulls(rows, exact=sum(t.numel() for t in states[0][len(self.named) :]))
            del rows, states
        each = len(share.parts) // len(self.agents)
        for place, agent in enumerate(self.agents):
            self.enter(agent)
            parts = share.parts[place * each : (place + 1) * each]
            self.turns.step(step, replace(share, parts=parts), window, elapsed)
            with torch.no_grad():
                if self.settings.noise:
                    self._shake(step, agent, a)
                if pulls is not None:
                    add_flat(self._mixed(self._tensors()), pulls[place], b)
            if agent.ema is not None:
                agent.ema.update()
            self.task.after_step(step)

    def _mixed(self, tensors: Mapping[str, Tensor]) -> list[Tensor]:
        """What is mixed: the weights that learn, then statistics that may move; counters are not, nor networks that
        follow mixed ones."""
        moving = [name for name in self.others if tensors[name].is_floating_point() and not self._follows(name)]
        return [tensors[name] for name in (*self.named, *moving)]

    def _follows(self, name: str) -> bool:
        return any(name.startswith(self.task.networks.prefix(follower)) for follower in self.task.networks.leaders)

    def _shake(self, step: int, agent: Agent, a: float) -> None:
        generator = torch.Generator().manual_seed(mix_seed(self.seed, _NOISE, step, agent.number))
        for parameter in self.named.values():
            draw = torch.randn(parameter.shape, generator=generator)
            parameter.data.sub_(draw.to(parameter), alpha=a * self.settings.noise)

    # All agents together; every process calls these alike

    @torch.no_grad()
    def measures(self) -> dict[str, float]:
        """``train/consensus``: the root of the mean over agents of |x_n - the mean x|^2, of the weights that learn."""
        rows = [flat([self.tensors_of(agent)[name] for name in self.named]) for agent in self.agents]
        centre = self.communicator.mean(rows)
        squares = torch.stack([(row - centre).square().sum() for row in rows]).sum().reshape(1)
        return {"train/consensus": float(self.communicator.total(squares) / self.count) ** 0.5}

    @torch.no_grad()
    def centre(self) -> dict[str, Tensor]:
        """The mean over all agents of their averaged weights (of the weights where there are no averages) and of all
        else that is no counter."""
        of = [self.tensors_of(agent) for agent in self.agents]
        others = [name for name in self.others if of[0][name].is_floating_point()]
        rows = []
        for agent, tensors in zip(self.agents, of, strict=True):
            weights = tensors if agent.ema is None else agent.ema.averages()
            rows.append(flat([*(weights[name] for name in self.named), *(tensors[name] for name in others)]))
        mean = self.communicator.mean(rows, exact=sum(of[0][name].numel() for name in others))
        found, at = {name: value.clone() for name, value in of[0].items()}, 0
        for name in (*self.named, *others):
            size = found[name].numel()
            found[name] = mean[at : at + size].view_as(found[name]).to(found[name].dtype)
            at += size
        return found

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the task holds :meth:`centre`; afterwards the weights are back bit for bit."""
        centre, live = self.centre(), self._tensors()
        kept = {name: value.data for name, value in live.items()}
        with ExitStack() as stack:
            stack.callback(self._fill, kept)
            self._fill(centre)
            yield

    def _fill(self, values: Mapping[str, Tensor]) -> None:
        for name, value in self._tensors().items():
            value.data = values[name]

    def finish(self) -> None:
        """Leave the mean model in the task."""
        self._fill(self.centre())

    def spread(self, judge: Callable[[Any, Task], Mapping[str, float]]) -> dict[str, float]:
        """``eval/loss`` of the best and of the worst agent's own averaged weights.

        Args:
            judge: measures the task on the whole validation split, given what stands for an accelerator of one process.
        """
        from accelerate.utils import gather_object

        if not self.settings.spread:
            return {}
        alone = SimpleNamespace(
            process_index=0, num_processes=1, device=self.accelerator.device, autocast=self.accelerator.autocast
        )
        losses = []
        first = self.inside
        for agent in self.agents:
            self.enter(agent)
            with ExitStack() as stack, random_state.untouched(self.accelerator.device):
                if agent.ema is not None:
                    stack.enter_context(agent.ema.swapped())
                stack.enter_context(self.task.evaluating())
                losses.append(judge(alone, self.task)["eval/loss"])
        self.enter(first)
        everybody: Sequence[float] = gather_object(losses) if self.accelerator.num_processes > 1 else losses
        return {"eval/agents_best_loss": min(everybody), "eval/agents_worst_loss": max(everybody)}
