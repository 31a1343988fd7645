"""What the measurements of RIVER share: trainings by the library's own trainer, predictions in parts, machine."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from domains.video.judge import predict
from domains.video.river import RiverTask
from flowkit.data import DataSource
from flowkit.random import mix_seed
from flowkit.solvers.sampler import Sampler
from flowkit.train.optimisers import AdamW
from flowkit.train.trainer import Trainer


def fit(
    task: RiverTask,
    data: DataSource,
    *,
    steps: int,
    seconds: float = 0.0,
    batch: int = 256,
    lr: float = 1e-3,
    ema: float = 0.999,
    seed: int = 0,
    device: str = "cuda",
    best: int = 0,
    **others: Any,
) -> dict[str, float]:
    """Train by :class:`Trainer` (bf16 and CUDA graphs on a GPU); the task keeps the averaged weights, with ``best``
    those of the smallest validation loss, which is measured each ``best`` steps.

    Returns:
        ``steps``, ``seconds``, ``clips_per_second`` and the last ``loss``.
    """
    on_gpu = device != "cpu"
    settings: dict[str, Any] = {
        "steps": steps, "seconds": seconds, "batch": batch, "lr": lr, "ema": ema, "schedule": "cosine",
        "warmup": min(500, steps // 10), "clip": 1.0, "optimiser": AdamW(weight_decay=5e-6),
        "precision": "bf16" if on_gpu else "fp32", "graphs": on_gpu, "device": "auto" if on_gpu else "cpu",
        "evaluate_every": best, "sample_every": 0, "checkpoint_every": 0, "log_every": max(min(500, steps // 10), 1),
        "tensorboard": False, "progress": False, "prefetch": 0,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="river-") as folder:
        began = time.perf_counter()
        told = Trainer(**settings | others).fit(
            task, data, sampler=Sampler(), seed=seed, folder=Path(folder), recipe_text=""
        )
        took = time.perf_counter() - began
        if best:
            kept = Path(folder) / "checkpoints" / "best"
            task.load_state_dict(load_file(kept / "model" / "model.safetensors"))
    task.eval()
    done = int(told["steps"])
    return {
        "steps": done,
        "seconds": took,
        "clips_per_second": done * batch / float(told.get("seconds") or took),
        "loss": float(told.get("metrics", {}).get("train/loss", float("nan"))),
        **({"best_step": float((told.get("best") or {}).get("step", done))} if best else {}),
    }


@contextmanager
def dialled(task: RiverTask, **dials: Any) -> Iterator[None]:
    """Other ``redraw``, ``strength`` or ``horizon`` inside."""
    was = task.dials
    task.dials = replace(was, **dials)
    try:
        yield
    finally:
        task.dials = was


@torch.no_grad()
def continued(
    task: RiverTask,
    clips: Tensor,
    frames: int,
    sampler: Sampler,
    *,
    context: int = 0,
    seed: int = 0,
    batch: int = 256,
) -> tuple[Tensor, float]:
    """Frames in [-1, 1] after the first ``context`` (default: the task's) of ``clips`` (n, T, c, h, w) uint8, made on
    the task's device in parts, and the network calls a frame."""
    context = context or task.context
    parts, calls = [], []
    for first in range(0, len(clips), batch):
        known = clips[first : first + batch, :context].to(task.device)
        made = predict(task, known, frames, sampler=sampler, seed=mix_seed(seed, 77), first=first)
        parts.append(made.frames)
        calls.append(made.network_calls.double().mean())
    return torch.cat(parts), float(torch.stack(calls).mean())


def every_clip(samples: Any, count: int, block: int = 256) -> Tensor:
    """The first ``count`` clips of a split, uint8 on the CPU."""
    rows = range(min(count, len(samples)))
    return torch.cat([samples.batch(list(rows[i : i + block]))["frames"] for i in range(0, len(rows), block)])


def wait(device: str) -> None:
    """Until the device has done its work."""
    if device != "cpu":
        torch.cuda.synchronize()


def machine(device: str) -> dict[str, str]:
    """What the figures were measured on."""
    name = platform.processor() or platform.machine()
    return {"machine": name if device == "cpu" else torch.cuda.get_device_name(), "torch": torch.__version__}
