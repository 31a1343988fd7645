"""What a policy's task tells its networks and encoders beside the recipe's own sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from flowkit.nn.network import NetworkSpec


@dataclass(frozen=True)
class ChunkSpec(NetworkSpec):
    """A :class:`NetworkSpec` for action chunks (b, horizon, actions) under ``cond["observation"]`` (b, condition)."""

    horizon: int = 16
    actions: int = 1
    condition: int = 1

    @classmethod
    def of(cls, spec: NetworkSpec, *, horizon: int, actions: int, condition: int) -> ChunkSpec:
        """``spec`` with the sizes of a chunk."""
        own = {field.name: getattr(spec, field.name) for field in fields(NetworkSpec)}
        own |= {"state": (horizon, actions), "vectors": {"observation": condition}}
        return cls(**own, horizon=horizon, actions=actions, condition=condition)


@dataclass(frozen=True)
class ObservationSpec:
    """The last ``history`` observations: ``state`` floats each, and pictures by name as (height, width)."""

    state: int
    history: int = 1
    images: Mapping[str, tuple[int, int]] = field(default_factory=dict)
