"""A plugin file for the tests: a task on points of a line, small enough to read at a glance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from flowkit.cond import Cond
from flowkit.config.plugins import Plugin, Verb
from flowkit.couplings.coupling import Batch
from flowkit.data import DataSource, RawBatch, Samples, Split
from flowkit.nn.network import Network, NetworkSpec
from flowkit.objectives.objective import Networks, Objective
from flowkit.random import RandomSource
from flowkit.solvers.sampler import Sampler
from flowkit.tasks import Task


class ToyData(DataSource):
    """Two points, many times."""

    def __init__(self, size: int = 64, file: Path | None = None, law: Literal["even", "odd"] = "even") -> None:
        self.size, self.file, self.law = size, file, law

    def prepare(self) -> None:
        pass

    def split(self, name: Split) -> Samples:
        return ToySamples(self.size)

    def statistics(self) -> Mapping[str, Any]:
        return {"size": self.size, "law": self.law}


class ToySamples(Samples):
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def batch(self, indices: Sequence[int]) -> RawBatch:
        return {"x": torch.tensor([[float(i % 2) * 2 - 1, 0.5] for i in np.asarray(indices).tolist()])}


class ToyNet(Network):
    """One hidden layer."""

    def __init__(self, spec: NetworkSpec, width: int = 8, scales: list[float] | None = None) -> None:
        super().__init__(spec)
        self.body = nn.Sequential(nn.Linear(2 * spec.inputs + spec.times, width), nn.Tanh(), nn.Linear(width, 2))

    def forward(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        v = self.body(torch.cat([*inputs, *(t.unsqueeze(1) for t in times)], 1))
        return {head.name: v for head in self.spec.heads}


class ToyTask(Task):
    """Flow matching on two points."""

    def __init__(self, network: Callable[[NetworkSpec], Network], objective: Objective, scale: float = 1.0) -> None:
        super().__init__()
        self.objective, self.scale = objective, scale
        self.networks = Networks.build(objective.needs(), network)
        self.register_buffer("mean", torch.zeros(2))

    def prepare(self, raw: RawBatch, generator: RandomSource | None = None) -> Batch:
        return Batch(x1=raw["x"] * self.scale)

    def evaluate(
        self, samples: Samples, *, sampler: Sampler, seed: int = 0, limit: int | None = None
    ) -> dict[str, float]:
        drawn = self._draw(len(samples) if limit is None else min(limit, len(samples)), sampler, seed)
        return {"spread": float(drawn.std()), "evaluations": float(sampler.steps)}

    @torch.no_grad()
    def _draw(self, n: int, sampler: Sampler, seed: int) -> Tensor:
        like = torch.zeros(n, 2, device=self.device)
        return self.objective.generate(
            self.networks, like, Cond(), sampler=sampler, generator=torch.Generator().manual_seed(seed)
        ).x

    def sample(
        self, n: int, *, sampler: Sampler, seed: int = 0, request: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        return {"points": ToyPoints(self._draw(n, sampler, seed))}

    def pipeline(self, sampler: Sampler) -> Any:
        return lambda n, seed=0: self._draw(n, sampler, seed)


class ToyPoints:
    def __init__(self, points: Tensor) -> None:
        self.points = points

    def to_tensorboard(self, writer: Any, tag: str, step: int) -> None:
        writer.add_histogram(tag, self.points, step)

    def save(self, stem: Path) -> Path:
        path = stem.with_suffix(".txt")
        path.write_text("\n".join(f"{x:.6f} {y:.6f}" for x, y in self.points.tolist()) + "\n")
        return path


plugin = Plugin(
    name="toy", summary="a task for the tests", verbs={"wave": Verb("flowkit_plugin_toy_plugin", "say hello")}
)


def add_arguments(parser: Any) -> None:
    parser.add_argument("--name", default="world")


def run(args: Any) -> int:
    print(f"hello {args.name}")
    return 0
