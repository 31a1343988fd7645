"""Clips made in the test: a bright square moves by one of two steps a frame, and wraps around."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from domains.video.models.transformer import RiverTransformer
from domains.video.river import RiverTask
from flowkit.data import DataSource, RawBatch, Samples
from flowkit.nn.network import Network, NetworkSpec
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.objective import Objective
from flowkit.paths.linear import LinearPath


class TinyClips(Samples):
    def __init__(self, first: int, count: int, frames: int, size: int, actions: int) -> None:
        self.first, self.count, self.frames, self.size, self.actions = first, count, frames, size, actions

    def __len__(self) -> int:
        return self.count

    def clip(self, number: int) -> np.ndarray:
        place, step = number * 3 % self.size, 1 + number % 2
        clip = np.full((self.frames, 3, self.size, self.size), 20, np.uint8)
        for t in range(self.frames):
            at = [(place + t * step + k) % self.size for k in range(2)]
            clip[t, :, 2:4, at] = 230
        return clip

    def batch(self, indices: Sequence[int]) -> RawBatch:
        numbers = [self.first + int(i) for i in indices]
        raw: RawBatch = {
            "frames": torch.from_numpy(np.stack([self.clip(n) for n in numbers])),
            "clip": torch.tensor(numbers),
        }
        if self.actions:
            raw["actions"] = torch.ones(len(numbers), self.frames - 1, self.actions)
        return raw


class TinySource(DataSource):
    def __init__(self, *, frames: int = 6, size: int = 8, actions: int = 0, clips: int = 8) -> None:
        self.frames, self.size, self.actions, self.clips = frames, size, actions, clips

    def prepare(self) -> None:
        pass

    def split(self, name: str) -> TinyClips:
        held_out = name != "train"
        return TinyClips(
            self.clips if held_out else 0, 4 if held_out else self.clips, self.frames, self.size, self.actions
        )

    def statistics(self):
        return {"frames": self.frames, "size": self.size, "channels": 3, "fps": 10.0, "actions": self.actions}


def small(spec: NetworkSpec) -> Network:
    return RiverTransformer(spec, width=64, heads=2, blocks=(1, 1, 1), dropout=0.0)


def tiny_task(objective: Objective | None = None, **options) -> RiverTask:
    torch.manual_seed(0)
    task = RiverTask(
        options.pop("network", small),
        objective or FlowMatching(path=LinearPath(floor=1e-7)),
        **{"size": 8, "context": 2, **options},
    )
    task.adapt(TinySource(actions=task.actions))
    return task.eval()


def write_video(path: Path, frames: int = 12, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """An H.264 file of slowly changing colours; returns what was handed to the encoder (n, h, w, 3)."""
    import av

    generator = np.random.default_rng(seed)
    base = generator.integers(0, 200, (height, width, 3)).astype(np.float64)
    pictures = np.stack([np.clip(base + 3 * i, 0, 255).astype(np.uint8) for i in range(frames)])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return pictures


__all__ = ["TinySource", "small", "tiny_task", "write_video"]
