"""What a comparison measures of a trained run: quality by network calls, and how straight its trajectories are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from flowkit.artifacts import Artifact
from flowkit.config.recipe import Recipe
from flowkit.data import DataSource, Samples, Split
from flowkit.errors import UserError, nearest
from flowkit.metrics.straightness import straightness
from flowkit.random import Rows, mix_seed
from flowkit.solvers.controllers import FixedSteps
from flowkit.solvers.euler import Euler
from flowkit.solvers.save import Save
from flowkit.solvers.solve import solve
from flowkit.sources.source import Source
from flowkit.tasks import Task
from flowkit.train.engine import to_device

#: Counts that evaluations report beside their measures.
COUNTS = ("nfe", "network_calls", "failed")
#: Beginnings of names of measures of which more is better.
_MORE = ("psnr", "ssim", "success", "accuracy", "agreement", "reward", "return", "coverage", "correlation")
_TRAJECTORIES, _STEPS = 200, 32


def judged(data: DataSource, split: str) -> Samples:
    """The split that is measured: the named one; "" takes test, or validation where that is empty.

    Raises:
        UserError: it is empty.
    """
    names: tuple[Split, ...] = ("train", "validation", "test")
    wanted: list[Split] = [name for name in names if name == split] if split else ["test", "validation"]
    for name in wanted:
        if len(samples := data.split(name)):
            return samples
    filled = " or ".join(f"--split {name}" for name in names if len(data.split(name)))
    raise UserError(f"the {' and the '.join(wanted)} split is empty; {filled or 'no split'} holds samples")


def steps_for(loaded: Artifact, samples: Samples, calls: int) -> int:
    """Steps of the run's sampler that make ``calls`` network calls, found by counting those of a few samples.

    Raises:
        UserError: no number of steps makes as many, or the task does not count.
    """
    solver = loaded.sampler.solver
    steps = calls // solver.evaluations

    def counted(steps: int) -> int:
        sampler = replace(loaded.sampler, steps=steps, controller=None)
        found = loaded.task.evaluate(samples, sampler=sampler, limit=2)
        for key in ("network_calls", "nfe"):
            if key in found:
                return math.ceil(found[key] - 1e-6)
        raise UserError(
            f"{type(loaded.task).__name__} does not report its network calls: it cannot be compared by them"
        )

    for _ in range(3):
        if steps < 1:
            break
        made = counted(steps)
        if made == calls:
            return steps
        # What every solve costs beside its steps (an initial velocity), or each step costs more (guidance).
        steps = steps - (made - calls) if made - steps * solver.evaluations <= 2 else steps * calls // made
    raise UserError(f"no number of {type(solver).__name__} steps makes {calls} network calls")


@torch.no_grad()
def trajectories(task: Task, samples: Samples, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, Any] | None:
    """States (steps + 1, b, *d) of Euler solves from the source, their times, and the padding; None where there is no
    field."""
    objective = task.objective
    source = getattr(objective, "source", None)
    if not isinstance(source, Source):
        return None
    try:
        with task.evaluating():
            field = objective.field(task.networks)
            raw = samples.batch(range(min(len(samples), _TRAJECTORIES)))
            batch = task.pair_inputs(to_device(raw, task.device), Rows(mix_seed(seed, 1)))
            assert batch.x1 is not None
            x0 = source.draw(batch.x1, batch.cond, Rows(mix_seed(seed, 2), total=len(batch.x1)))
            path = getattr(objective, "path", None)
            state = x0 if path is None else path.start(x0, batch.cond)
            solution = solve(
                field, state, solver=Euler(), controller=FixedSteps(_STEPS), cond=batch.cond, save=Save.STEPS
            )
    except (UserError, NotImplementedError):
        return None
    assert solution.xs is not None
    assert solution.ts is not None
    return solution.xs, solution.ts, batch.cond.padding


def straightness_of(task: Task, samples: Samples) -> float | None:
    """S / E|D|^2 of the task's trajectories, or None where there is no field."""
    found = trajectories(task, samples)
    return None if found is None else straightness(found[0], found[1], padding=found[2]).relative


def metric_of(report: Mapping[str, Any], wanted: str, recipe: Recipe, mode: str = "") -> tuple[str, str]:
    """The measure that is tabulated and whether ``min`` or ``max`` of it is good: ``wanted``, else what the recipe
    chooses its best checkpoint by, else the first that is reported. ``mode`` "" takes the recipe's word on its own
    measure, and else what the name says.

    Raises:
        UserError: there is no such measure.
    """
    results = [run for runs in report["results"].values() for run in runs.values()]
    names = list(dict.fromkeys(key for run in results for point in run["points"].values() for key in point))
    names = [name for name in names if name not in (*COUNTS, "steps")]
    best = str(recipe.resolved["trainer"]["best"]).removeprefix("eval/")
    if wanted and wanted not in names:
        raise UserError(f"--metric {wanted}: not reported; {nearest(wanted, names)}")
    if not names:
        raise UserError("the task reports no measure, only counts: there is nothing to compare")
    chosen = wanted or (best if best in names else names[0])
    if not mode and chosen == best:
        mode = str(recipe.resolved["trainer"]["mode"])
    return chosen, mode or ("max" if chosen.split("/")[-1].startswith(_MORE) else "min")
