"""``summary.json``: what was run, what came out, what it cost."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import torch

from flowkit.solvers.sampler import Sampler

if TYPE_CHECKING:
    from flowkit.train.run import Run


def peak_memory_mb(device: torch.device) -> float:
    """The most memory taken so far in MiB (2^20 bytes): of the GPU, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource
    import sys

    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def device_name(device: torch.device) -> str:
    """``NVIDIA H200``, or the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    import accelerate

    from flowkit.version import __version__

    return {
        "flowkit": __version__,
        "torch": str(torch.__version__),
        "accelerate": accelerate.__version__,
        "python": platform.python_version(),
    }


def sampling(sampler: Sampler) -> dict[str, Any]:
    """Solver and steps, and the evaluations of the field where the sampler fixes them."""
    known: dict[str, Any] = {"solver": type(sampler.solver).__name__, "steps": sampler.steps}
    if sampler.controller is not None:
        return {"solver": known["solver"], "controller": type(sampler.controller).__name__}
    known["evaluations"] = sampler.steps * sampler.solver.evaluations
    return known


def report(run: Run, status: str) -> dict[str, Any]:
    """What ``summary.json`` holds."""
    turns = {turn.phase.name: sum(p.numel() for p in turn.parameters) for turn in run.turns.turns}
    return {
        "status": status,
        "task": type(run.task).__name__,
        "objective": type(run.task.objective).__name__,
        "parameters": turns,
        "steps": run.step,
        "samples_seen": run.loader.seen,
        "epoch": run.loader.epoch,
        "metrics": run.results,
        "best": None if run.best is None else {"step": run.best[0], run.trainer.best: run.best[1]},
        "sampling": sampling(run.sampler),
        "seconds": run.seconds,
        "peak_memory_mb": peak_memory_mb(run.device),
        **({"peak_memory_mb_each": run.peaks} if run.peaks else {}),
        "device": device_name(run.device),
        "conditions": run.conditions(),
        **({} if run.team is None else {"topology": run.team.facts()}),
        **({"pairs": dict(run.provenance)} if run.provenance else {}),
        **({} if run.teacher is None else {"teacher": run.teacher.record()}),
        "versions": versions(),
    }
