"""What an objective asks of a domain's network, and the base class such a network has.

Networks are built to the objective's order: a task holds a factory ``Callable[[NetworkSpec], Network]`` and calls
it once for each network that
the objective needs, so two networks, a second time or an extra head change no file of a domain.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from flowkit.cond import Cond
from flowkit.errors import UserError


@dataclass(frozen=True)
class Head:
    """One output: ``state`` (shaped like the state) or ``scalar`` (one number a sample, (b,)).

    ``detach`` reads the shared features without sending gradients back (AdaFlow's variance head).
    """

    name: str
    shape: Literal["state", "scalar"] = "state"
    detach: bool = False


@dataclass(frozen=True)
class NetworkSpec:
    """``inputs`` state-shaped tensors (concatenated on the channel axis), ``times`` times (0, 1 or 2) and the heads.

    Args:
        inputs, times, heads: as above.
        follows: name of the network that this one begins as a frozen copy of: a target, which the objective moves and
            no optimiser trains. "" for a network of its own.
        like: name of the network whose trained weights this one begins with, as far as they fit, where its own are not
            known: a student of a teacher that has no such network. "" begins afresh.
        training_only: nothing that samples calls it: model folders leave it out.
        sequence: 0, or the number of trajectories whose points a :class:`flowkit.nn.sequence.SequenceNetwork` reads in
            turn.
        latent: 0, or the size of the Gaussian latent that each output of a sequence is drawn through.
        state, vectors, labels: what tasks tell networks of no domain: the shape of one state, the sizes of floating
            conditions and the number of classes of integer ones, by name.
    """

    inputs: int = 1
    times: int = 1
    heads: tuple[Head, ...] = (Head("v"),)
    # By keyword only: domains extend this class by fields of their own, and hand the first three on.
    follows: str = field(default="", kw_only=True)
    like: str = field(default="", kw_only=True)
    training_only: bool = field(default=False, kw_only=True)
    sequence: int = field(default=0, kw_only=True)
    latent: int = field(default=0, kw_only=True)
    state: tuple[int, ...] = field(default=(), kw_only=True)
    vectors: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    labels: Mapping[str, int] = field(default_factory=dict, kw_only=True)


class Network(nn.Module, ABC):
    """A network that fits a :class:`NetworkSpec`; subclasses take ``spec`` as their first constructor argument."""

    spec: NetworkSpec

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec

    @abstractmethod
    def forward(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        """Evaluate: ``inputs`` are ``spec.inputs`` tensors (b, *d), ``times`` are ``spec.times`` tensors (b,); head
        name -> output."""

    def time_codes(self) -> Sequence[nn.Module]:
        """The embeddings of times whose sum the network reads, in their order; none where times enter otherwise."""
        return ()

    @torch.no_grad()
    def begin_as(self, other: Network) -> None:
        """Take over the weights of a trained network of the same class that may have been built to another order: what
        has the same name and shape, and weights that have more inputs here, where the further ones begin at 0: those of
        further states after the known states, which come first, all others last. Classes that put them elsewhere place
        them themselves. The codes of further times begin at 0.

        Raises:
            UserError: the networks are of different classes or sizes.
        """
        mine, theirs = self.state_dict(), other.state_dict()
        fitting = {name: value for name, value in theirs.items() if name in mine and mine[name].shape == value.shape}
        if type(self) is not type(other) or (mine and not fitting):
            raise UserError(
                f"a {type(self).__name__} cannot begin as this {type(other).__name__}: give both one network and size"
            )
        for name, value in theirs.items():
            if name not in mine or name in fitting:
                continue
            own = mine[name]
            grown = own.ndim == value.ndim > 1 and own.shape[1] > value.shape[1]
            if not grown or (own.shape[0], *own.shape[2:]) != (value.shape[0], *value.shape[2:]):
                raise UserError(
                    f"this {type(self).__name__} cannot begin as another size ({name} is {tuple(own.shape)} here "
                    f"and {tuple(value.shape)} there): give both one network"
                )
            more, states = own.shape[1] - value.shape[1], self.spec.inputs - other.spec.inputs
            place = other.spec.inputs * (more // states) if states > 0 else value.shape[1]
            fitting[name] = torch.zeros_like(own)
            fitting[name][:, :place] = value[:, :place]
            fitting[name][:, place + more :] = value[:, place:]
        self.load_state_dict(fitting, strict=False)
        for code in list(self.time_codes())[other.spec.times :]:
            last = [layer for layer in code.modules() if isinstance(layer, nn.Linear)][-1]
            for parameter in last.parameters():
                parameter.zero_()
