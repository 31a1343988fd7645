"""A given x0: the source is data itself (restoration, translation, video from the previous frame)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.random import RandomSource, normal_like
from flowkit.sources.source import Source

__all__ = ["Given"]


class Given(Source):
    """x0 = cond[name], with a little Gaussian noise on top if asked for.

    Args:
        name: the condition that holds x0, shaped like the state.
        noise: deviation of the added noise; 0 takes x0 as it is. ``temperature`` scales it.
    """

    def __init__(self, name: str = "x0", noise: float = 0.0) -> None:
        if not noise >= 0.0:
            raise UserError(f"Given: noise must be 0 or more, got {noise}")
        self.name = name
        self.noise = noise

    def draw(
        self, like: Float[Tensor, "b *d"], cond: Cond, generator: RandomSource | None, *, temperature: float = 1.0
    ) -> Float[Tensor, "b *d"]:
        x0 = cond[self.name].to(like.dtype)
        return x0 + (self.noise * temperature) * normal_like(x0, generator) if self.noise else x0

    def log_prob(self, x0: Float[Tensor, "b *d"], cond: Cond) -> Float[Tensor, " b"]:
        raise UserError(
            f"the source Given({self.name!r}) has no density, so a log-likelihood cannot be computed from it"
        )

    def __repr__(self) -> str:
        return f"Given(name={self.name!r}, noise={self.noise:g})"
