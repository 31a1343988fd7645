"""Who is paired with whom: the base class, and the batch that objectives and couplings share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor, nn

from flowkit.cond import Cond
from flowkit.nn.network import Network, NetworkSpec
from flowkit.random import RandomSource
from flowkit.sources.source import Source

#: Shared by all batches without a condition: making one costs as much as a small kernel.
_NO_CONDITION = Cond()


@dataclass(frozen=True)
class Batch:
    """What a task hands to an objective: data x1 (b, *d), perhaps a given x0, the condition and the loss mask.

    ``cond.padding`` is what a network may see, ``keep`` (broadcastable to x1) what counts in the loss; None keeps
    all that is not padding.
    ``weight`` (b,) multiplies each sample's loss, before the mean over the batch; None weighs all alike.
    """

    x1: Float[Tensor, "b *d"] | None = None
    x0: Float[Tensor, "b *d"] | None = None
    cond: Cond = _NO_CONDITION
    keep: Bool[Tensor, "b ..."] | None = None
    weight: Float[Tensor, " b"] | None = None

    @property
    def loss_mask(self) -> Bool[Tensor, "b ..."] | None:
        """``keep`` and the padding together."""
        if self.keep is None or self.cond.padding is None:
            return self.cond.padding if self.keep is None else self.keep
        return self.keep & self.cond.padding

    def replace(self, **changes: object) -> Batch:
        """A copy with some fields changed."""
        return type(self)(**(vars(self) | changes))  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Draw:
    """A paired batch (x0 and x1 both present) and the coupling's own loss terms, name -> (b,)."""

    batch: Batch
    terms: Mapping[str, Float[Tensor, " b"]] = field(default_factory=dict)


@runtime_checkable
class NetworksByName(Protocol):
    """The networks of an objective, as a coupling sees them."""

    def __getitem__(self, name: str) -> Network: ...


class Coupling(nn.Module, ABC):
    """Pairs a batch whose x0 was drawn from the source; may ask for networks of its own and add loss terms.

    A coupling permutes x0 only, or returns whole triples (x0, x1, cond): padding, masks, labels and lengths move
    together or not at all.
    """

    #: True when x0 stays independent of (x1, cond): only then may scores be read off the trained field.
    independent: bool = False
    #: True when x0 has to come from the source: a batch that brings its own is refused.
    draws_x0: bool = False

    @abstractmethod
    def draw(self, batch: Batch, generator: RandomSource | None) -> Draw:
        """Pair ``batch.x0`` with ``batch.x1``."""

    def needs(self) -> dict[str, NetworkSpec]:
        """Networks that the coupling learns with, by name; objectives order them beside their own."""
        return {}

    def pair(
        self, batch: Batch, generator: RandomSource | None, *, networks: NetworksByName | None, source: Source
    ) -> Draw:
        """What objectives call: :meth:`draw`, with the networks of the objective and the law of x0 at hand."""
        return self.draw(batch, generator)

    def report(self) -> Mapping[str, Float[Tensor, ""]]:
        """Numbers to log beside the loss, by name."""
        return {}
