"""From the last observations to one vector, the condition of the network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from domains.policy.models.layers import group_count, perceptron
from domains.policy.models.specs import ObservationSpec
from flowkit.errors import UserError
from flowkit.random import RandomSource, uniform


class Encoder(nn.Module, ABC):
    """Makes the condition vector; subclasses take an :class:`ObservationSpec` first and set ``size``."""

    #: Elements of the vector.
    size: int

    @abstractmethod
    def forward(self, parts: Mapping[str, Tensor], generator: RandomSource | None = None) -> Float[Tensor, "b size"]:
        """``parts``: ``state`` (b, history, S), normalised, and ``image/<name>`` (b, history, height, width, 3) uint8.

        ``generator`` feeds what is random in training.
        """


class SpatialSoftmax(nn.Module):
    """Expected position of each channel in [-1, 1]^2 (Levine et al., arXiv 1504.00702): (b, c, h, w) to (b, 2 c)."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """x then y of every channel."""
        height, width = x.shape[2:]
        share = x.flatten(2).float().softmax(2).unflatten(2, (height, width))
        across = torch.linspace(-1.0, 1.0, width, device=x.device)
        along = torch.linspace(-1.0, 1.0, height, device=x.device)
        return torch.cat([(share.sum(2) * across).sum(2), (share.sum(3) * along).sum(2)], 1).to(x.dtype)


class _Residual(nn.Module):
    """Halves the picture, then two convolutions beside a shortcut."""

    def __init__(self, channels: int, out: int, groups: int) -> None:
        super().__init__()
        self.shrink = nn.Conv2d(channels, out, 3, stride=2, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(group_count(out, groups), out) for _ in range(3))
        self.convolutions = nn.ModuleList(nn.Conv2d(out, out, 3, padding=1, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norms[0](self.shrink(x)))
        inner = F.silu(self.norms[1](self.convolutions[0](x)))
        return F.silu(x + self.norms[2](self.convolutions[1](inner)))


class ImageEncoder(nn.Module):
    """A small convolutional network with group norms over pictures of one camera: (n, height, width, 3) to (n, size).

    Args:
        height, width: of the pictures.
        channels: of its levels; each halves the picture.
        size: elements of the result.
        crop: share of the sides that is kept: at random in training, in the middle else; 1 keeps all.
        pooling: ``keypoints`` (spatial softmax) or ``mean``.
        groups: of the group norms.

    Raises:
        UserError: a crop outside (0, 1], or pictures that are too small for so many levels.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        channels: Sequence[int] = (32, 64, 128),
        size: int = 64,
        crop: float = 0.9,
        pooling: Literal["keypoints", "mean"] = "keypoints",
        groups: int = 8,
    ) -> None:
        super().__init__()
        if not 0.0 < crop <= 1.0:
            raise UserError(f"ImageEncoder: crop is the share of a side that is kept, in (0, 1], not {crop}")
        if pooling not in ("keypoints", "mean"):
            raise UserError(f"ImageEncoder: pooling is keypoints or mean, not {pooling!r}")
        if size < 1 or groups < 1 or not channels or min(channels) < 1:
            raise UserError(
                f"ImageEncoder: channels {list(channels)}, size {size} and groups {groups} must be positive, and there "
                "must be a level at least"
            )
        self.cropped = (max(round(height * crop), 1), max(round(width * crop), 1))
        if min(self.cropped) < 2 ** len(channels):
            raise UserError(
                f"ImageEncoder: {len(channels)} levels halve a picture of {self.cropped[0]} x {self.cropped[1]} away: "
                "give fewer channels"
            )
        self.height, self.width, self.size, self.pooling = height, width, size, pooling
        pairs = zip([3, *channels], channels, strict=False)
        self.levels = nn.Sequential(*(_Residual(a, b, groups) for a, b in pairs))
        self.keypoints = SpatialSoftmax()
        self.out = nn.Linear(channels[-1] * (2 if pooling == "keypoints" else 1), size)

    def crop(self, x: Tensor, corner: Float[Tensor, "n 2"]) -> Tensor:
        """The crop of each picture (n, h, w, 3) at ``corner`` in [0, 1): 0 is top and left, 1 bottom and right."""
        (h, w), n = self.cropped, x.shape[0]
        if (h, w) == (self.height, self.width):
            return x
        rows = (corner[:, :1] * (self.height - h + 1)).long() + torch.arange(h, device=x.device)
        columns = (corner[:, 1:] * (self.width - w + 1)).long() + torch.arange(w, device=x.device)
        picture = torch.arange(n, device=x.device)[:, None, None]
        return x[picture, rows[:, :, None], columns[:, None, :]]

    def forward(self, images: Tensor, corner: Float[Tensor, "n 2"] | None = None) -> Float[Tensor, "n size"]:
        """Pictures uint8 (n, height, width, 3); ``corner`` (n, 2) in [0, 1) places the crops, None in the middle."""
        if corner is None:
            corner = torch.full((images.shape[0], 2), 0.5, device=images.device)
        x = self.crop(images, corner).permute(0, 3, 1, 2).to(self.out.weight.dtype).div(127.5).sub(1.0)
        x = self.levels(x)
        return self.out(self.keypoints(x) if self.pooling == "keypoints" else x.mean((2, 3)))


class ObservationEncoder(Encoder):
    """The states of the history side by side, and the features of every picture of it.

    Args:
        spec: what an observation holds.
        width: of a perceptron over the states; 0 hands them on as they are.
        depth: hidden layers of it.
        image: builds the encoder of one camera from its height and width; a recipe names ``ImageEncoder`` and its
            sizes. Every camera has its own; all frames of a history share it, and share the place of a random crop.
    """

    def __init__(
        self,
        spec: ObservationSpec,
        *,
        width: int = 0,
        depth: int = 1,
        image: Callable[[int, int], ImageEncoder] = ImageEncoder,
    ) -> None:
        super().__init__()
        states = spec.state * spec.history
        self.state = perceptron(states, width, depth, width) if width and states else None
        # Names may hold dots and slashes, which a ModuleDict refuses: cameras go by number.
        self.names = tuple(spec.images)
        cameras = [image(*spec.images[name]) for name in self.names]
        self.cameras = nn.ModuleList(cameras)
        self.size = (width if self.state is not None else states) + spec.history * sum(c.size for c in cameras)

    def forward(self, parts: Mapping[str, Tensor], generator: RandomSource | None = None) -> Float[Tensor, "b size"]:
        """See :class:`Encoder`."""
        state = parts["state"].flatten(1)
        found = [state if self.state is None else self.state(state)]
        for name, camera in zip(self.names, self.cameras, strict=True):
            pictures = parts[f"image/{name}"]
            b, history = pictures.shape[:2]
            corner = None
            if self.training:
                # One draw a sample, in its own row: keyed draws must not depend on the batch.
                corner = uniform((b, 2), generator, device=pictures.device).repeat_interleave(history, 0)
            found.append(camera(pictures.flatten(0, 1), corner).unflatten(0, (b, history)).flatten(1))
        return torch.cat(found, 1) if len(found) > 1 else found[0]
