"""The law of x0: what a flow starts from.

``x0`` is always a draw of the source; where sampling starts is ``path.start(x0, cond)``, which may differ
(variance-exploding paths).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from flowkit.cond import Cond
from flowkit.random import RandomSource


class Source(ABC):
    """The law of x0, given the condition."""

    #: True only for the standard normal independent of data: scores may be read off a field only then.
    standard_normal: bool = False
    #: False where a draw looks something up on the host, which a CUDA graph cannot hold.
    capturable: bool = True

    @abstractmethod
    def draw(
        self, like: Float[Tensor, "b *d"], cond: Cond, generator: RandomSource | None, *, temperature: float = 1.0
    ) -> Float[Tensor, "b *d"]:
        """One x0 for each row of ``like`` (its shape, dtype and device); ``temperature`` scales the deviation."""

    @abstractmethod
    def log_prob(self, x0: Float[Tensor, "b *d"], cond: Cond) -> Float[Tensor, " b"]:
        """Log-density of x0 in nats, over unpadded elements."""

    def moments(self, cond: Cond) -> tuple[Tensor | float, Tensor | float] | None:
        """Mean and deviation, broadcastable to the state, where the law is a normal one of independent elements; else
        None.
        """
        return None
