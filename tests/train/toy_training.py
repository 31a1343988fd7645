"""A tiny real training for the tests of the trainer, and jobs of it for :mod:`forked`.

A job is a JSON object: ``folder``, ``trainer`` (settings), ``resume``, ``dropout``, ``deep``, ``lengths``, ``gossip``
(a topology), ``world`` (processes) and what shall happen: ``kill_at`` (SIGKILL after that optimiser step),
``kill_in_save`` (SIGKILL while that one is written), ``signal_at`` (SIGTERM), ``signal_twice_at`` (SIGINT twice),
``fail_at`` (an exception, or a ``RuntimeError`` of the words ``fail_as``), ``limit_at`` with ``file_limit`` (bytes that
a file may have from that step on); ``rank``: in that process alone.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowkit.cond import Cond
from flowkit.couplings.coupling import Batch
from flowkit.data import DataSource, RawBatch, Samples
from flowkit.errors import UserError
from flowkit.nn.network import Network, NetworkSpec
from flowkit.objectives.objective import Loss, Networks, Objective
from flowkit.random import RandomSource, normal_like, uniform
from flowkit.solvers.sampler import Sampler
from flowkit.tasks import Task
from flowkit.tensors import like, mean_per_sample
from flowkit.train import checkpoint
from flowkit.train.decentralised.topology import Gossip
from flowkit.train.trainer import Trainer


class ToySamples(Samples):
    """Rows with the number of the sample, cut to its length and padded."""

    def __init__(self, n: int, seed: int, lengths: bool = False, poisoned: int | None = None) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = 0.3 * torch.randn(n, 4, generator=generator) + torch.tensor([2.0, -2.0, 1.0, -1.0])
        if poisoned is not None:
            self.x[poisoned] = float("nan")
        self.size = torch.randint(1, 65, (n,), generator=generator) if lengths else None

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Sequence[int]) -> RawBatch:
        rows = torch.as_tensor(indices)
        return {"x": self.x[rows], "number": rows, "name": [f"sample {i}" for i in indices]}

    def lengths(self) -> np.ndarray | None:
        return None if self.size is None else self.size.numpy()


class ToyData(DataSource):
    def __init__(self, n: int = 70, held_out: int = 21, lengths: bool = False, poisoned: int | None = None) -> None:
        self.n, self.held_out, self.lengths, self.poisoned = n, held_out, lengths, poisoned

    def prepare(self) -> None:
        pass

    def split(self, name: str) -> ToySamples:
        if name == "train":
            return ToySamples(self.n, 1, self.lengths, self.poisoned)
        return ToySamples(self.held_out, 2, self.lengths)

    def statistics(self) -> dict[str, Any]:
        return {"mean": 3.0}


class ToyBlock(nn.Module):
    """A residual layer; sizes that two processes cannot halve evenly."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, 7), nn.SiLU(), nn.Dropout(dropout), nn.Linear(7, 16))
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gain * self.layers(x)


class ToyNetwork(Network):
    """A perceptron; with ``deep`` blocks between its two layers, a scalar that scales and a frozen layer."""

    def __init__(self, spec: NetworkSpec, dropout: float = 0.0, deep: int = 0) -> None:
        super().__init__(spec)
        self.layers = nn.Sequential(nn.Linear(5, 16), nn.SiLU(), nn.Dropout(dropout), nn.Linear(16, 4))
        if deep:
            self.blocks = nn.ModuleList(ToyBlock(dropout) for _ in range(deep))
            self.scale = nn.Parameter(torch.ones(()))
            self.frozen = nn.Linear(4, 4).requires_grad_(False)

    def forward(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        x = torch.cat([inputs[0], times[0][:, None]], 1)
        if not hasattr(self, "blocks"):
            return {"v": self.layers(x)}
        first, act, drop, last = self.layers
        x = drop(act(first(x)))
        for block in self.blocks:
            x = block(x)
        return {"v": self.scale * self.frozen(last(x))}


class ToyObjective(Objective):
    """Flow matching on a line; counts its steps in a buffer and may kill the process."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("counted", torch.zeros((), dtype=torch.int64))
        self.after: list[Any] = []
        self.draws: list[Tensor] = []

    @property
    def capturable(self) -> bool:
        return True

    def needs(self) -> dict[str, NetworkSpec]:
        return {"main": NetworkSpec()}

    def loss(
        self, networks: Networks, batch: Batch, *, phase: str = "main", step: int = 0,
        generator: RandomSource | None = None,
    ) -> Loss:  # fmt: skip
        assert batch.x1 is not None
        x0, t = normal_like(batch.x1, generator), uniform((len(batch.x1),), generator, device=batch.x1.device)
        xt = like(1 - t, x0) * x0 + like(t, x0) * batch.x1
        terms = {"flow": mean_per_sample((networks.main([xt], [t], batch.cond)["v"] - (batch.x1 - x0)) ** 2)}
        return Loss(terms["flow"].mean(), terms)

    def after_step(self, networks: Networks, step: int) -> None:
        self.counted += 1
        for action in self.after:
            action(step)

    def field(self, networks: Networks) -> Any:
        raise NotImplementedError

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


class Note:
    """A presentation that is a line of text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def to_tensorboard(self, writer: Any, tag: str, step: int) -> None:
        writer.add_text(tag, self.text, step)

    def save(self, stem: Path) -> Path:
        path = stem.with_name(stem.name + ".txt")
        path.write_text(self.text)
        return path


class ToyTask(Task):
    def __init__(self, dropout: float = 0.0, deep: int = 0) -> None:
        super().__init__()
        self.objective = ToyObjective()
        self.networks = Networks.build(self.objective.needs(), lambda spec: ToyNetwork(spec, dropout, deep))
        self.register_buffer("mean", torch.zeros(()))
        self.training_seen: list[bool] = []

    def adapt(self, data: DataSource) -> None:
        self.mean.fill_(data.statistics()["mean"])

    def prepare(self, raw: RawBatch, generator: RandomSource | None = None) -> Batch:
        return Batch(x1=raw["x"] + 0.1 * self.mean)

    def weight_sum(self) -> float:
        return sum(p.detach().double().sum().item() for p in self.parameters())

    def evaluate(
        self, samples: Samples, *, sampler: Sampler, seed: int = 0, limit: int | None = None
    ) -> dict[str, float]:
        self.training_seen.append(self.training)
        torch.rand(7)  # evaluations may draw: training must not notice
        return {"weights": self.weight_sum(), "limit": float(limit or 0)}

    def present(self, samples: Samples, *, sampler: Sampler, seed: int = 0) -> dict[str, Note]:
        return {"note": Note(f"{len(samples)} samples")}

    def sample(self, n: int, *, sampler: Sampler, seed: int = 0, request: Any = None) -> dict[str, Note]:
        return {}


def settings(**changes: Any) -> Trainer:
    usual: dict[str, Any] = {
        "steps": 24, "batch": 8, "lr": 0.01, "schedule": "cosine", "warmup": 4, "ema": 0.9, "evaluate_every": 8,
        "sample_every": 0, "checkpoint_every": 5, "log_every": 3, "keep": 0, "tensorboard": False, "progress": False,
        "device": "cpu",
    }  # fmt: skip
    return Trainer(**{**usual, **changes})


def train(folder: Path, task: Task | None = None, data: DataSource | None = None, **options: Any) -> dict[str, Any]:
    """Train in ``folder``; keywords that ``Trainer.fit`` does not know are settings."""
    fit = {k: options.pop(k) for k in ("resume", "overfit_batch", "dry_run", "seed") if k in options}
    if task is None:
        torch.manual_seed(0)
        task = ToyTask()
    fit = {"seed": 5, **fit}
    return settings(**options).fit(
        task, data or ToyData(), sampler=Sampler(), folder=folder, recipe_text="seed: 5\n", **fit
    )


def records(folder: Path) -> list[dict[str, float]]:
    """Lines of metrics.jsonl without what depends on the clock."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]


def kill(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def disturb(job: dict[str, Any], step: int) -> None:
    """What the job wants to happen after ``step`` optimiser steps, in all processes or that of its ``rank``."""
    if job.get("rank") not in (None, int(os.environ.get("RANK", "0"))):
        return
    if step == job.get("fail_at"):
        if "fail_as" in job:
            raise RuntimeError(job["fail_as"])
        raise ValueError("a fault of this process")
    if step == job.get("kill_at"):
        kill()
    if step == job.get("signal_at"):
        os.kill(os.getpid(), signal.SIGTERM)
    if step == job.get("signal_twice_at"):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
    if step == job.get("limit_at"):
        # As on a full disk: what is written beyond the limit fails.
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_limit"], job["file_limit"]))


def perform(job: dict[str, Any]) -> None:
    """Run one job in this process."""
    faulthandler.enable()
    torch.manual_seed(0)
    task = ToyTask(job.get("dropout", 0.0), job.get("deep", 0))
    task.objective.after.append(lambda step: disturb(job, step + 1))
    if "kill_in_save" in job:
        whole, last = checkpoint.seal, job["kill_in_save"]
        checkpoint.seal = lambda folder, **notes: (kill if notes["step"] == last else whole)(folder, **notes)
    data = ToyData(held_out=job.get("held_out", 21), lengths=job.get("lengths", False))
    more = {"topology": Gossip(**job["gossip"])} if "gossip" in job else {}
    train(Path(job["folder"]), task, data, **job.get("trainer", {}), **more, **{"resume": job.get("resume")})


def launch(job: dict[str, Any]) -> None:
    """Run one job in ``launched`` processes as ``torchrun`` does, whose agent ends all when one has failed."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=job["launched"], rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        run_id="toy", max_restarts=0, start_method="fork", monitor_interval=0.1,
    )  # fmt: skip
    elastic_launch(config, _launched)(job)


def _launched(job: dict[str, Any]) -> None:
    try:
        perform(job)
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(2)


def command(job: dict[str, Any]) -> int:
    """The command line ``words`` with ``--out`` for the job's folder; says whether the launch was left."""
    from flowkit.cli.main import main

    code = main([*job["words"], "--out", job["folder"]])
    print("the launch was left:", not torch.distributed.is_initialized())
    return code
