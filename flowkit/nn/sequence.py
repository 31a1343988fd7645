"""Networks that read trajectories causally: the output at a point depends on it and on the points before it.

Several trajectories may be read as one sequence, their points in turn: [w^1_0 .. w^p_0, w^1_1 .. w^p_1, ...].
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from flowkit.cond import Cond
from flowkit.nn.network import Network


class SequenceNetwork(Network):
    """A network of ``spec.sequence`` = p >= 1 interleaved trajectories; conditions have one row per sequence, or p
    rows.

    Its forward takes one input (b, n, *d) and one time (b, n). Without a latent the head ``v`` has the shape of the
    input; with ``spec.latent`` = l it is a Gaussian, ``mean`` and ``variance`` (b, n, l), of which :meth:`decode`
    makes states. Built to an order without a sequence it reads states (b, *d) and times (b,) by themselves.
    """

    @abstractmethod
    def begin(self, rows: int, cond: Cond) -> Any:
        """The memory of ``rows`` sequences of which nothing but the condition was read."""

    @abstractmethod
    def extend(
        self, memory: Any, inputs: Sequence[Float[Tensor, "b n *d"]], times: Sequence[Float[Tensor, "b n"]], cond: Cond
    ) -> tuple[dict[str, Tensor], Any]:
        """The heads at the next ``n`` points, and the memory with them; ``cond`` was read by :meth:`begin`."""

    @abstractmethod
    def decode(self, latent: Float[Tensor, "b n l"]) -> Float[Tensor, "b n *d"]:
        """States of latents."""


def interleave(x: Float[Tensor, "b n *d"], trajectories: int) -> Float[Tensor, "c m *d"]:
    """Each ``trajectories`` = p rows of n points become one row of n p points in turn; b must be a multiple of p."""
    grouped = x.unflatten(0, (-1, trajectories))
    return grouped.transpose(1, 2).flatten(1, 2)


def deinterleave(x: Float[Tensor, "c m *d"], trajectories: int) -> Float[Tensor, "b n *d"]:
    """The inverse of :func:`interleave`."""
    return x.unflatten(1, (-1, trajectories)).transpose(1, 2).flatten(0, 1)
