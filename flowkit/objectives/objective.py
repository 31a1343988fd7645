"""What is minimised: the base class of every objective, the networks it trains and the loss it returns."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import (
    Tensor,
    _foreach_copy_,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_lerp_,  # pyright: ignore[reportPrivateImportUsage]
    nn,
)

from flowkit.cond import Cond
from flowkit.couplings.coupling import Batch
from flowkit.errors import UserError
from flowkit.fields.field import Field
from flowkit.nn.network import Network, NetworkSpec
from flowkit.nn.sequence import SequenceNetwork
from flowkit.objectives.phase import Phase
from flowkit.random import RandomSource
from flowkit.solvers.solver import Solution

if TYPE_CHECKING:
    from flowkit.objectives.teacher import Teacher
    from flowkit.solvers.sampler import Sampler


@dataclass
class Loss:
    """``total`` is a scalar to differentiate; ``terms`` (b,) are what it was made of, before the mean over the
    batch."""

    total: Float[Tensor, ""]
    terms: Mapping[str, Float[Tensor, " b"]] = field(default_factory=dict)


NetworkFactory = Callable[[NetworkSpec], Network]


class Networks(nn.Module):
    """The networks of a task by name: ``main``, and what the objective asked for beside it (``target``,
    ``teacher``, ...)."""

    def __init__(self, networks: Mapping[str, Network], specs: Mapping[str, NetworkSpec] | None = None) -> None:
        super().__init__()
        self.by_name = nn.ModuleDict(networks)
        specs = specs or {}
        #: Networks that only training calls.
        self.training_only = tuple(name for name, spec in specs.items() if spec.training_only)
        #: Frozen network -> the one that it follows.
        self.leaders = {name: spec.follows for name, spec in specs.items() if spec.follows}
        #: Network -> the one of a teacher that it begins like, where the teacher lacks it.
        self.models = {name: spec.like for name, spec in specs.items() if spec.like}

    @classmethod
    def build(cls, specs: Mapping[str, NetworkSpec], factory: NetworkFactory) -> Networks:
        """Call ``factory`` once for each network an objective needs; those that follow another are copies of it.

        Raises:
            UserError: the objective reads sequences, and the factory makes no such network.
        """
        built = {name: factory(spec) for name, spec in specs.items() if not spec.follows}
        for name, network in built.items():
            if specs[name].sequence and not isinstance(network, SequenceNetwork):
                raise UserError(
                    f"the objective reads whole trajectories, and {type(network).__name__} reads one state: set "
                    "task.network to CausalTransformer"
                )
        for name, spec in specs.items():
            if spec.follows:
                built[name] = copy.deepcopy(built[spec.follows]).requires_grad_(False)
        return cls({name: built[name] for name in specs}, specs)

    @torch.no_grad()
    def follow(self, name: str, share: float = 1.0) -> None:
        """Move the frozen network ``name`` towards the one it follows by ``share`` of the way (1: copy it); buffers are
        copied."""
        mine, theirs = self[name], self[self.leaders[name]]
        _foreach_lerp_(list(mine.parameters()), list(theirs.parameters()), share)
        buffers = list(mine.buffers())
        if buffers:
            _foreach_copy_(buffers, list(theirs.buffers()))

    def begin_like(self, other: Networks) -> None:
        """Networks that ``other`` lacks take over what fits of the one that they are said to begin like."""
        for name, model in self.models.items():
            if name not in other.by_name and model in other.by_name:
                self[name].begin_as(other[model])

    def copy_anew(self) -> None:
        """Make those that follow another frozen copies of it again: its layers became others (adapters)."""
        for name, leader in self.leaders.items():
            self.by_name[name] = copy.deepcopy(self[leader]).requires_grad_(False)

    def __getitem__(self, name: str) -> Network:
        if name not in self.by_name:
            raise KeyError(f"no network {name!r}; there are: {', '.join(self.by_name)}")
        return self.by_name[name]  # pyright: ignore[reportReturnType]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_name)

    def prefix(self, name: str) -> str:
        """What names of the network's tensors in a task's state begin with."""
        return f"networks.by_name.{name}."

    def came_without(self, name: str) -> None:
        """The network was not stored: one that follows another begins as its copy again, any other is removed."""
        if name in self.leaders:
            self.follow(name)
        else:
            del self.by_name[name]

    @property
    def main(self) -> Network:
        """The network that is trained and sampled."""
        return self["main"]


class Objective(nn.Module, ABC):
    """One paper's loss and the field it trains. Never knows a domain, never touches an optimiser or a device."""

    #: True when the loss asks a trained flow: the trainer loads the recipe's ``teacher`` and sets :attr:`teacher`.
    needs_teacher: bool = False
    #: False where the field is no right-hand side to integrate (mean velocities, say): no likelihood, no lessons.
    solvable: bool = True
    #: True where the loss asks for derivatives of the networks by their inputs: they are then not gathered in blocks.
    differentiates: bool = False
    #: The trained flow to learn from, or None; no part of the state.
    teacher: Teacher | None = None

    @property
    def capturable(self) -> bool:
        """True when the loss is the same program at every step and for every batch of a shape, without looking at
        values on the host: a CUDA graph."""
        return False

    @abstractmethod
    def needs(self) -> dict[str, NetworkSpec]:
        """The networks to build, by name; ``main`` is the one that is sampled."""

    def phases(self) -> Sequence[Phase]:
        """Stages and turns of training; parameters of the network NAME begin with ``networks.by_name.NAME.``"""
        return (Phase(),)

    @abstractmethod
    def loss(
        self,
        networks: Networks,
        batch: Batch,
        *,
        phase: str = "main",
        step: int = 0,
        generator: RandomSource | None = None,
    ) -> Loss:
        """The training loss of one batch."""

    def check_sampler(self, sampler: Sampler, span: tuple[float, float] = (0.0, 1.0)) -> None:
        """Refuse, with a ``UserError``, a sampler that the objective cannot honour; called before training, too."""

    def after_step(self, networks: Networks, step: int) -> None:
        """Called once after each optimiser step (for targets that follow)."""

    @abstractmethod
    def field(self, networks: Networks) -> Field:
        """The trained velocity field."""

    @abstractmethod
    def generate(
        self,
        networks: Networks,
        like: Float[Tensor, "b *d"],
        cond: Cond,
        *,
        sampler: Sampler,
        x0: Tensor | None = None,
        span: tuple[float, float] = (0.0, 1.0),
        generator: RandomSource | None = None,
        hooks: Sequence[Callable[..., Any]] = (),
    ) -> Solution:
        """Sample: draw x0 from the source (shape of ``like``) unless given, and solve the field over ``span``."""
