"""What an image task tells its network beside the recipe's own sizes."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from flowkit.nn.network import NetworkSpec


@dataclass(frozen=True)
class PictureSpec(NetworkSpec):
    """A :class:`NetworkSpec` for pictures (b, channels, height, width); ``classes`` n > 0: the condition ``label`` (b,)
    in 0 .. n, n standing for none."""

    channels: int = 1
    height: int = 28
    width: int = 28
    classes: int = 0

    @classmethod
    def of(cls, spec: NetworkSpec, shape: tuple[int, int, int], *, classes: int = 0) -> PictureSpec:
        """``spec`` with the shape (c, h, w) of a picture."""
        own = {field.name: getattr(spec, field.name) for field in fields(NetworkSpec)}
        made = cls(**{**own, "state": shape, "labels": {"label": classes} if classes else {}})
        return replace(made, channels=shape[0], height=shape[1], width=shape[2], classes=classes)
