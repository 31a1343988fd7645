"""Decentralised SGD: x_n <- x_n + b_k sum_m (x_m - x_n) - a_k (direction of agent n), all from the old iterates.

Swenson, Murray, Poor and Kar 2020, "Distributed Stochastic Gradient Descent: Nonconvexity, Nonsmoothness, and
Convergence to Local Minima" (arXiv 2003.02818). The direction may be any optimiser's; the theorems are those of plain
SGD.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowkit.errors import UserError
from flowkit.train.decentralised.communicator import Communicator
from flowkit.train.decentralised.schedule import DecayingWeights


class DecentralisedSGD:
    """Steps and mixes the agents of this process.

    Args:
        agents: the parameters (and floating buffers that should be mixed) of each agent of this process, in the order
            of ``communicator.agents``; integer tensors are refused.
        optimiser: makes an agent's optimiser of its parameters that learn; its learning rate is a_k at each step.
        communicator: who mixes with whom, and over what.
        schedule: a_k and b_k.
        every: mix at each so many steps.
        noise: deviation of isotropic noise that is added to the direction; it helps out of saddles.
        generator: of that noise.

    Raises:
        UserError: agents that do not fit the communicator or each other, or a mixing that would diverge.
    """

    def __init__(
        self,
        agents: Sequence[Sequence[Tensor]],
        optimiser: Callable[[list[Tensor]], torch.optim.Optimizer] = lambda p: torch.optim.SGD(p, lr=1.0),
        *,
        communicator: Communicator,
        schedule: DecayingWeights = DecayingWeights(),  # noqa: B008  (frozen)
        every: int = 1,
        noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        self.tensors = [list(tensors) for tensors in agents]
        if len(self.tensors) != len(communicator.agents):
            raise UserError(f"{len(self.tensors)} agents were given, this process has {len(communicator.agents)}")
        shapes = {tuple((t.shape, t.dtype) for t in tensors) for tensors in self.tensors}
        if len(shapes) != 1:
            raise UserError("all agents have tensors of the same shapes and types")
        if any(not t.is_floating_point() for t in self.tensors[0]):
            raise UserError("counters and other integers are not mixed: leave them out")
        if every < 1 or noise < 0:
            raise UserError(f"every is at least 1, not {every}, and noise not negative, not {noise:g}")
        check_mixing(schedule, communicator.largest)
        self.communicator, self.schedule, self.every = communicator, schedule, every
        self.noise, self.generator = noise, generator
        self.optimisers = [optimiser([t for t in tensors if t.requires_grad]) for tensors in self.tensors]
        self.k = 0

    @classmethod
    def of_modules(cls, modules: Sequence[nn.Module], *arguments: Any, **options: Any) -> DecentralisedSGD:
        """Agents that are networks: their parameters and floating buffers are mixed."""
        tensors = [
            [*module.parameters(), *(buffer for buffer in module.buffers() if buffer.is_floating_point())]
            for module in modules
        ]
        return cls(tensors, *arguments, **options)

    def zero_grad(self) -> None:
        """Forget the gradients of the agents of this process."""
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)

    @torch.no_grad()
    def step(self) -> None:
        """One step of all agents of this process from the gradients that they hold; every process calls it alike."""
        self.k += 1
        a, b = self.schedule.at(self.k, self.communicator.largest)
        # Neighbours are seen as they were before anybody stepped: mixing after the step is another method.
        pulls = self.communicator.pulls([flat(t) for t in self.tensors]) if self.k % self.every == 0 else None
        for number, (tensors, optimiser) in enumerate(zip(self.tensors, self.optimisers, strict=True)):
            for group in optimiser.param_groups:
                group["lr"] = a
            optimiser.step()
            if self.noise:
                for tensor in tensors:
                    if tensor.requires_grad:
                        draw = torch.randn(tensor.shape, generator=self.generator, dtype=tensor.dtype)
                        tensor.sub_(a * self.noise * draw.to(tensor.device))
            if pulls is not None:
                add_flat(tensors, pulls[number], b)

    def disagreement(self) -> float:
        """Root of the mean over this process's agents of |x_n - x_bar|^2 (of all agents, with one agent a process: the
        mean of that over the processes)."""
        states = [flat(tensors) for tensors in self.tensors]
        centre = self.communicator.mean(states)
        squared = torch.stack([(state - centre).square().sum() for state in states])
        return float(self.communicator.mean([squared.mean().reshape(1)] * len(states)).sqrt())

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, all agents hold the average over all agents: what is evaluated and kept in the end."""
        with torch.no_grad():
            kept = [flat(tensors) for tensors in self.tensors]
            centre = self.communicator.mean(kept)
            for tensors in self.tensors:
                fill_flat(tensors, centre)
        try:
            yield
        finally:
            with torch.no_grad():
                for tensors, state in zip(self.tensors, kept, strict=True):
                    fill_flat(tensors, state)

    def state_dict(self) -> dict[str, Any]:
        """The step and each agent's tensors and optimiser, of this process."""
        return {
            "k": self.k,
            "agents": [flat(tensors).clone() for tensors in self.tensors],
            "optimisers": [copy.deepcopy(optimiser.state_dict()) for optimiser in self.optimisers],
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`.

        Raises:
            UserError: it is of another number of agents.
        """
        if len(state["agents"]) != len(self.tensors):
            raise UserError(f"the state holds {len(state['agents'])} agents, this process has {len(self.tensors)}")
        self.k = int(state["k"])
        for tensors, optimiser, kept, inner in zip(
            self.tensors, self.optimisers, state["agents"], state["optimisers"], strict=True
        ):
            fill_flat(tensors, kept)
            optimiser.load_state_dict(inner)


def check_mixing(schedule: DecayingWeights, largest: float) -> None:
    """Raise ``UserError`` where mixing diverges on a graph whose Laplacian has the ``largest`` eigenvalue."""
    _, mix = schedule.at(1, largest)
    if largest > 0 and not mix < 2.0 / largest:
        raise UserError(
            f"mixing with b = {mix:g} diverges on this graph: it must lie below 2 / {largest:.4g} = {2.0 / largest:.4g}"
        )


def flat(tensors: Sequence[Tensor]) -> Float[Tensor, " p"]:
    """All numbers in a row, a copy (bfloat16 as float32: its steps are too coarse for agents to agree)."""
    whole = [t.detach().reshape(-1) for t in tensors]
    return torch.cat([t.float() if t.dtype in (torch.bfloat16, torch.float16) else t for t in whole])


def add_flat(tensors: Sequence[Tensor], row: Float[Tensor, " p"], factor: float) -> None:
    """Add ``factor`` times the numbers of ``row`` in place."""
    at = 0
    for tensor in tensors:
        tensor.add_(row[at : at + tensor.numel()].view_as(tensor).to(tensor.dtype), alpha=factor)
        at += tensor.numel()


def fill_flat(tensors: Sequence[Tensor], row: Float[Tensor, " p"]) -> None:
    """Overwrite the tensors by the numbers of ``row``."""
    at = 0
    for tensor in tensors:
        tensor.copy_(row[at : at + tensor.numel()].view_as(tensor))
        at += tensor.numel()
