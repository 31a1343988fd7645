"""Named sets of videos, as benchmarks and tables mean them: each a source with its arguments fixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from domains.video.data.collide import Collisions
from domains.video.data.push import PushScene
from domains.video.data.sprites import BouncingSprites
from domains.video.data.street import Pedestrians
from flowkit.data import DataSource
from flowkit.errors import UserError, nearest

#: Version of each set: raised when its clips become others.
VERSIONS = {
    "sprites-det": 1,
    "sprites-sto": 1,
    "fashion-det": 1,
    "fashion-sto": 1,
    "push64": 1,
    "collide64": 1,
    "street64": 1,
}
_SPRITES: dict[str, Any] = {"frames": 20, "size": 64, "sprites": 2, "speed": [2.0, 5.0], "held_out": 2, "seed": 0}
_SETS: dict[str, tuple[Callable[..., DataSource], dict[str, Any]]] = {
    "sprites-det": (BouncingSprites, {**_SPRITES, "motion": "deterministic"}),
    "sprites-sto": (BouncingSprites, {**_SPRITES, "motion": "stochastic"}),
    "fashion-det": (BouncingSprites, {**_SPRITES, "motion": "deterministic", "pictures": "fashion-mnist"}),
    "fashion-sto": (BouncingSprites, {**_SPRITES, "motion": "stochastic", "pictures": "fashion-mnist"}),
    "push64": (PushScene, {"size": 64, "length": 30, "clips": 2000, "seed": 0}),
    "collide64": (Collisions, {"size": 64, "length": 32, "clips": 1000, "seed": 0}),
    "street64": (Pedestrians, {"size": 64, "seed": 0}),
}


def open_set(name: str, **options: Any) -> DataSource:
    """A named set.

    Args:
        name: of :data:`VERSIONS`.
        options: of the source that do not change its videos: where its files are, ``cache``, ``frames``, ``workers``.

    Raises:
        UserError: there is no such set.
    """
    if name not in _SETS:
        raise UserError(f"there is no set {name!r}: {nearest(name, _SETS)}")
    kind, fixed = _SETS[name]
    return kind(**{**fixed, **options})
