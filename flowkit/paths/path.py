"""Where x_t lies between x0 and x1: the general path, and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from flowkit.cond import Cond


@dataclass(frozen=True)
class Point:
    """A point of a conditional path: x_t and its velocity v_t = dx_t/dt, all (b, *d); t (b,)."""

    x0: Float[Tensor, "b *d"]
    x1: Float[Tensor, "b *d"]
    t: Float[Tensor, " b"]
    xt: Float[Tensor, "b *d"]
    vt: Float[Tensor, "b *d"]


class Path(ABC):
    """A conditional path from x0 (t = 0) to x1 (t = 1)."""

    @abstractmethod
    def at(
        self, x0: Float[Tensor, "b *d"], x1: Float[Tensor, "b *d"], t: Float[Tensor, " b"], aux: Tensor | None = None
    ) -> Point:
        """The point at time ``t``; ``aux`` is what some paths also need: a shift or an initial velocity."""

    def start(self, x0: Float[Tensor, "b *d"], cond: Cond | None = None) -> Float[Tensor, "b *d"]:
        """The state in which sampling starts, from a draw of the source."""
        return x0
