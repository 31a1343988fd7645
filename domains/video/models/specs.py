"""What a video task tells its network beside the recipe's own sizes."""

from __future__ import annotations

from dataclasses import dataclass

from flowkit.nn.network import NetworkSpec


@dataclass(frozen=True)
class FrameSpec(NetworkSpec):
    """A :class:`NetworkSpec` for one latent frame (b, channels, height, width).

    Its conditions are ``reference`` and ``past`` (frames like the state), ``distance`` (b,), integers from 1, and,
    where ``actions`` is not 0, ``action`` (b, actions).
    """

    channels: int = 3
    height: int = 8
    width: int = 8
    actions: int = 0

    @classmethod
    def of(cls, spec: NetworkSpec, shape: tuple[int, int, int], *, actions: int = 0) -> FrameSpec:
        """``spec`` with the shape (C, H, W) of a latent."""
        return cls(spec.inputs, spec.times, spec.heads, *shape, actions)
