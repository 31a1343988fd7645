"""What the small benchmarks share: a training loop with averaged weights, one seed a process, results put together."""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from flowkit import atomic
from flowkit.couplings import Batch
from flowkit.nn.mlp import MLP
from flowkit.objectives import Networks
from flowkit.objectives.objective import Objective
from flowkit.solvers.controllers import FixedSteps
from flowkit.solvers.save import Save
from flowkit.solvers.solve import solve
from flowkit.solvers.solver import Solver
from flowkit.train.schedules import factor

Results = dict[str, Any]


def fit(
    objective: Objective,
    batches: Callable[[int, torch.Generator], Batch],
    *,
    steps: int,
    seed: int,
    lr: float,
    batch: int = 512,
    decay: float = 0.999,
    start: Networks | None = None,
    width: int = 128,
    build: Callable[..., Networks] | None = None,
) -> Networks:
    """Train and return the averaged weights. ``batches(n, generator)`` gives n samples; ``start``: what to begin as."""
    torch.manual_seed(seed)
    networks = (
        Networks.build(objective.needs(), lambda spec: MLP(spec, dimension=2, width=width, depth=3))
        if build is None
        else build(objective)
    )
    if start is not None:
        networks.main.begin_as(start.main)
    networks.train()
    average = copy.deepcopy(networks)
    generator = torch.Generator().manual_seed(1 + seed)
    optimiser = torch.optim.Adam(networks.parameters(), lr=lr)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * factor("cosine", step, steps=steps, warmup=min(100, steps // 4))
        loss = objective.loss(networks, batches(batch, generator), step=step, generator=generator).total
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        optimiser.step()
        share = min(decay, (1 + step) / (10 + step))  # grows, so that short trainings are not held back
        with torch.no_grad():
            for mean, now in zip(average.parameters(), networks.parameters(), strict=True):
                mean.lerp_(now, 1.0 - share)
    return average.eval()


def given(x0: torch.Tensor, x1: torch.Tensor) -> Callable[[int, torch.Generator], Batch]:
    """Batches of pairs."""

    def batches(n: int, generator: torch.Generator) -> Batch:
        rows = torch.randint(len(x0), (n,), generator=generator)
        return Batch(x1=x1[rows], x0=x0[rows])

    return batches


@torch.no_grad()
def ends(field: Any, x0: torch.Tensor, solver: Solver, steps: int) -> torch.Tensor:
    """Where the field takes ``x0``."""
    return solve(field, x0, solver=solver, controller=FixedSteps(steps)).x


@torch.no_grad()
def trajectory(field: Any, x0: torch.Tensor, solver: Solver, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All states and their times."""
    path = solve(field, x0, solver=solver, controller=FixedSteps(steps), save=Save.STEPS)
    assert path.xs is not None
    assert path.ts is not None
    return path.xs, path.ts


def arguments(doc: str | None, name: str, *, steps: int) -> argparse.ArgumentParser:
    """The options that all share."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(f"benchmarks/out/{name}.json"))
    parser.add_argument("--steps", type=int, default=steps, help="of each training")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... one after the other")
    parser.add_argument("--seed", type=int, help="this seed alone: one process for each, then --merge")
    parser.add_argument(
        "--merge", type=Path, nargs="+", metavar="FILE", help="put the results of such processes together"
    )
    return parser


def run(
    options: argparse.Namespace,
    measure: Callable[[int], Results],
    show: Callable[[Sequence[Results]], None],
    **facts: Any,
) -> None:
    """Measure each seed, or read what was measured; print and write all of it."""
    torch.set_num_threads(1)
    machine: Results = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__, **facts}
    runs: list[Results] = []
    if options.merge:
        found = [json.loads(path.read_text(encoding="utf-8")) for path in options.merge]
        machine = {key: value for key, value in found[0].items() if key != "runs"}
        runs = sorted((one for part in found for one in part["runs"]), key=lambda one: one["seed"])
    else:
        for seed in range(options.seeds) if options.seed is None else [options.seed]:
            began = time.perf_counter()
            runs.append({"seed": seed, **measure(seed), "seconds": round(time.perf_counter() - began, 1)})
            atomic.write_json(options.out, {**machine, "steps": options.steps, "runs": runs})
            print(f"seed {seed}: {runs[-1]['seconds']:.0f} s", flush=True)
    show(runs)
    atomic.write_json(options.out, {**machine, "steps": options.steps, "runs": runs})
