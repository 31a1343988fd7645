"""A point cloud that turns and drifts: a sequence whose true flow is known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.data import DataSource, RawBatch, Samples, Split
from flowkit.errors import UserError
from flowkit.random import mix_seed, normal, uniform


class Windows(Samples):
    """Windows of consecutive frames of one sequence.

    Args:
        frames: all of the sequence.
        flow: of each point of each frame to the next, metres a frame.
        length: frames of a window.
    """

    def __init__(self, frames: Float[Tensor, "F n 3"], flow: Float[Tensor, "F n 3"], length: int) -> None:
        self.frames, self.flow, self.length = frames, flow, length

    def __len__(self) -> int:
        return len(self.frames) - self.length + 1

    def batch(self, indices: Sequence[int]) -> RawBatch:
        """``first`` (b,) number of the first frame, ``frames`` and ``flow`` (b, length, n, 3)."""
        first = torch.as_tensor(indices, dtype=torch.long)
        rows = first[:, None] + torch.arange(self.length)
        return {"first": first, "frames": self.frames[rows], "flow": self.flow[rows]}


class TurningCloud(DataSource):
    """A body of points that turns about the vertical axis through its middle while that drifts; each frame sees points
    of its own, so no point has a partner. All splits are the one sequence: a field is fitted to it.

    Args:
        length: frames of the sequence.
        points: of a frame.
        turn: degrees a frame.
        drift: metres a frame along x.
        size: extent of the body, metres.
        window: frames that are seen together.
        noise: deviation of each coordinate, metres.
        seed: of the points.
    """

    def __init__(
        self, *, length: int = 12, points: int = 400, turn: float = 6.0, drift: float = 0.2, size: float = 6.0,
        window: int = 5, noise: float = 0.0, seed: int = 0,
    ) -> None:  # fmt: skip
        self.length, self.points, self.turn, self.drift = length, points, turn, drift
        self.size, self.window, self.noise, self.seed = size, window, noise, seed

    def prepare(self) -> None:
        """Check the arguments; there is nothing to fetch.

        Raises:
            UserError: arguments that make no sequence.
        """
        if self.window < 2 or self.length < self.window or self.points < 1 or self.size <= 0 or self.noise < 0:
            raise UserError(
                f"data.init_args: a window of {self.window} frames (2 or more) must fit in a length of {self.length}, "
                f"with {self.points} points (1 or more), size {self.size} (positive) and noise {self.noise} (0 or more)"
            )

    @cached_property
    def sequence(self) -> tuple[Float[Tensor, "F n 3"], Float[Tensor, "F n 3"]]:
        """Points of all frames and their true flow."""
        self.prepare()
        generator = torch.Generator().manual_seed(mix_seed(self.seed))
        # Three walls of a box that lacks the fourth: its turn can be seen, unlike a disc's.
        place = uniform((self.length, self.points, 3), generator) - 0.5
        wall = (uniform((self.length, self.points), generator) * 3).long()
        body = place * torch.tensor([1.0, 0.5, 0.25]) * self.size
        body[..., 1] = torch.where(wall == 0, 0.25 * self.size, body[..., 1])
        body[..., 0] = torch.where(wall == 1, 0.5 * self.size, torch.where(wall == 2, -0.5 * self.size, body[..., 0]))
        time = torch.arange(self.length, dtype=torch.float32)
        now = _turned(body, time * math.radians(self.turn)) + self._middle(time)
        following = _turned(body, (time + 1) * math.radians(self.turn)) + self._middle(time + 1)
        seen = now + self.noise * normal(tuple(now.shape), generator)
        return seen, following - now

    def _middle(self, time: Float[Tensor, " F"]) -> Float[Tensor, "F 1 3"]:
        return torch.stack([self.drift * time, torch.zeros_like(time), torch.zeros_like(time)], 1)[:, None]

    def split(self, name: Split) -> Samples:
        """The windows of the sequence."""
        return Windows(*self.sequence, self.window)

    def statistics(self) -> Mapping[str, Any]:
        """``length``, ``points``, ``window``, ``speed`` (mean metres a frame)."""
        speed = float(self.sequence[1].norm(dim=-1).mean())
        return {"length": self.length, "points": self.points, "window": self.window, "speed": speed}


def _turned(body: Float[Tensor, "F n 3"], angle: Float[Tensor, " F"]) -> Float[Tensor, "F n 3"]:
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    x, y, z = body.unbind(-1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y, z], -1)
