"""The loss over the validation split, the same draws each time, and the task's own metrics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowkit.data import Samples
from flowkit.random import Rows, mix_seed
from flowkit.solvers.sampler import Sampler
from flowkit.tasks import Task
from flowkit.train.engine import loss_of, to_device
from flowkit.train.loader import sweep

_VALIDATION = 0xE7A1


def validation_loss(
    accelerator: Any, task: Task, samples: Samples, *, phase: str, step: int, batch: int, bucket: int, limit: int,
    seed: int, threads: int,
) -> dict[str, float]:  # fmt: skip
    """``eval/loss`` and ``eval/<term>``: means over samples, each with the same times and noise at every call.

    Args:
        accelerator: of the run; every process takes its share.
        task: in eval mode, holding the weights to judge.
        samples: the validation split; where training is on pairs, those held out.
        phase, step: handed to the task.
        batch, bucket, limit, threads: see :func:`flowkit.train.loader.sweep`.
        seed: of the training.
    """
    from accelerate.utils import gather_object

    sums: dict[str, Tensor] = {}
    count = 0
    parts = sweep(
        samples, batch=batch, rank=accelerator.process_index, world=accelerator.num_processes, bucket=bucket,
        limit=limit, threads=threads,
    )  # fmt: skip
    for part in parts:
        rows = Rows(mix_seed(seed, _VALIDATION), first=part.first, total=part.total)
        with torch.no_grad(), accelerator.autocast():
            loss = loss_of(task, to_device(part.raw, accelerator.device), phase=phase, step=step, generator=rows)
        size = len(part.indices)
        for name, value in {"loss": loss.total, **loss.terms}.items():
            weighed = value.detach().float().mean() * size
            sums[name] = sums[name] + weighed if name in sums else weighed
        count += size
    shares = [({name: float(value) for name, value in sums.items()}, count)]
    if accelerator.num_processes > 1:
        shares = gather_object(shares)
    names = dict.fromkeys(name for share, _ in shares for name in share)
    total = max(sum(n for _, n in shares), 1)
    return {f"eval/{name}": sum(share.get(name, 0.0) for share, _ in shares) / total for name in names}


def task_metrics(
    accelerator: Any, task: Task, samples: Samples, *, sampler: Sampler, seed: int, limit: int | None
) -> dict[str, float]:
    """``eval/<metric>`` of ``task.evaluate``, measured by the first process and told to all."""
    from accelerate.utils import broadcast_object_list

    found: list[dict[str, float]] = [{}]
    if accelerator.is_main_process:
        with torch.no_grad():
            metrics = task.evaluate(samples, sampler=sampler, seed=seed, limit=limit)
        found = [{f"eval/{name}": float(value) for name, value in metrics.items()}]
    if accelerator.num_processes > 1:
        broadcast_object_list(found)
    return found[0]
