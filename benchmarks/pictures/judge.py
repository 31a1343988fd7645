"""The judge of made pictures: Frechet distances to the test set, in the features of one classifier."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch

from benchmarks.pictures.methods import Method
from domains.imaging.data.pictures import PictureSource
from domains.imaging.task import ImageTask
from flowkit.cond import Cond
from flowkit.config.classes import resolve
from flowkit.data import DataSource
from flowkit.metrics.frechet import frechet_distance
from flowkit.metrics.straightness import straightness
from flowkit.random import Rows
from flowkit.solvers.controllers import FixedSteps, Tolerance
from flowkit.solvers.dormand_prince import DormandPrince
from flowkit.solvers.euler import Euler
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.save import Save
from flowkit.solvers.solve import solve
from flowkit.solvers.solver import Solver
from flowkit.tasks import Task

CALLS = (1, 2, 4, 8)
_TOLERANCE = 1e-3


class Judge:
    """Fills the feature network of a task from the cache, and measures others with it.

    Args:
        task: of the recipe; adapts to the data.
        data: train and test split.
        device: where to compute.
        pictures: made for each distance, and real ones.
    """

    def __init__(self, task: Task, data: DataSource, device: torch.device, *, pictures: int) -> None:
        data.prepare()
        task.adapt(data)
        self.task = cast(ImageTask, task.to(device).eval())
        source = cast(PictureSource, data)
        test, train = source.split("test"), source.split("train")
        self.device, self.pictures = device, min(pictures, len(test))
        self.test = self.task.describe(test.pictures[: self.pictures])[0]
        seen = self.task.describe(test.pictures)[1]
        floor = frechet_distance(self.task.describe(train.pictures[: self.pictures])[0], self.test)
        #: What the distances mean.
        self.card: dict[str, Any] = {
            "feature_steps": self.task.feature_steps,
            "accuracy": float((seen == test.labels).double().mean()),
            "pictures": self.pictures,
            "floor": floor,
        }

    def frechet(self, task: ImageTask, sampler: Sampler, seed: int = 0) -> tuple[float, float]:
        """The distance, and the mean number of network calls."""
        drawn = task.draw(self.pictures, sampler=sampler, seed=seed, batch=1000)
        distance = frechet_distance(self.task.describe(drawn.pictures)[0], self.test)
        return distance, float(drawn.network_calls.double().mean())

    def few_steps(self, task: Task, method: Method) -> dict[str, Any]:
        """Distances by number of network calls; of a field also those of an adaptive solve and the straightness."""
        task = cast(ImageTask, task.eval())
        solver = cast(Solver, resolve(Solver, method.solver, "solver")())
        found: dict[str, float] = {}
        for calls in CALLS:
            steps = method.steps(calls)
            if steps is not None:
                found[str(calls)], counted = self.frechet(task, Sampler(solver=solver, steps=steps))
                assert counted == calls, f"{counted} network calls where {calls} were meant"
        out: dict[str, Any] = {"frechet": found}
        if method.has_field:
            adaptive = Sampler(solver=DormandPrince(), controller=Tolerance(rtol=_TOLERANCE, atol=_TOLERANCE))
            found["adaptive"], out["adaptive_calls"] = self.frechet(task, replace(adaptive, max_evaluations=1000))
            out["relative_straightness"] = self.straightness(task)
        return out

    @torch.no_grad()
    def straightness(self, task: ImageTask, *, n: int = 256, steps: int = 32) -> float:
        """S / E|D|^2 of Euler trajectories."""
        field = task.objective.field(task.networks)
        like = torch.zeros(n, *task.shape, device=self.device)
        source = getattr(task.objective, "source")  # noqa: B009  (of every objective that has a field)
        x0 = source.draw(like, Cond(), Rows(7, total=n))
        path = solve(field, x0, solver=Euler(), controller=FixedSteps(steps), save=Save.STEPS)
        assert path.xs is not None
        assert path.ts is not None
        return straightness(path.xs, path.ts).relative
