"""Points in the plane: the task without a domain, for learning how things work and for trying methods in seconds."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowkit.cond import Cond
from flowkit.couplings.coupling import Batch
from flowkit.data import DataSource, RawBatch, Samples, Split
from flowkit.errors import UserError, nearest
from flowkit.metrics.point_sets import energy_distance, wasserstein2
from flowkit.metrics.transport import count_summary
from flowkit.nn.network import Network, NetworkSpec
from flowkit.objectives.objective import Networks, Objective
from flowkit.present import Picture
from flowkit.random import RandomSource, mix_seed, normal, uniform
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.solver import Solution
from flowkit.tasks import Presentation, Task

_SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class PointSamples(Samples):
    """Points in memory: ``x`` (n, d) and the class ``label`` (n,) that each was drawn from."""

    def __init__(self, x: Float[Tensor, "n d"], label: Int[Tensor, " n"]) -> None:
        self.x, self.label = x, label

    def __len__(self) -> int:
        return self.x.shape[0]

    def batch(self, indices: Sequence[int]) -> RawBatch:
        """Gather rows."""
        rows = torch.as_tensor(indices, dtype=torch.long)
        return {"x": self.x[rows], "label": self.label[rows]}


class PointData(DataSource):
    """A law of points in the plane that is drawn from, the same for the same seed; a subclass writes :meth:`draw`.

    Args:
        size: points of the training split.
        held_out: points of the validation and of the test split.
        seed: of the draws.
    """

    def __init__(self, *, size: int = 100_000, held_out: int = 4000, seed: int = 0) -> None:
        self.size, self.held_out, self.seed = size, held_out, seed

    #: Number of classes, numbered from 0.
    classes: int

    @abstractmethod
    def draw(self, n: int, generator: torch.Generator) -> tuple[Float[Tensor, "n 2"], Int[Tensor, " n"]]:
        """``n`` points and their classes."""

    def prepare(self) -> None:
        """Nothing to fetch."""

    def split(self, name: Split) -> PointSamples:
        """Draw one split."""
        if name not in _SPLITS:
            raise UserError(f"no split {name!r}: {nearest(name, _SPLITS)}")
        generator = torch.Generator().manual_seed(mix_seed(self.seed, _SPLITS.index(name)))
        return PointSamples(*self.draw(self.size if name == "train" else self.held_out, generator))

    def statistics(self) -> Mapping[str, Any]:
        """Number, classes, mean and deviation of the training points."""
        x = self.split("train").x
        return {"points": len(x), "classes": self.classes, "mean": x.mean(0).tolist(), "deviation": x.std(0).tolist()}


class MixtureData(PointData):
    """``modes`` Gaussians of deviation ``deviation`` on a circle of radius ``radius``, with equal weights; the class is
    the mode. ``ordered``: points of a mode lie together, as many of each, one mode after the other.
    """

    def __init__(
        self,
        *,
        modes: int = 8,
        radius: float = 3.0,
        deviation: float = 0.3,
        ordered: bool = False,
        size: int = 100_000,
        held_out: int = 4000,
        seed: int = 0,
    ) -> None:
        super().__init__(size=size, held_out=held_out, seed=seed)
        self.classes, self.radius, self.deviation, self.ordered = modes, radius, deviation, ordered

    @property
    def centres(self) -> Float[Tensor, "modes 2"]:
        """Means of the modes; the first lies on the positive x axis."""
        angle = torch.arange(self.classes) * (2 * math.pi / self.classes)
        return self.radius * torch.stack([angle.cos(), angle.sin()], 1)

    def draw(self, n: int, generator: torch.Generator) -> tuple[Float[Tensor, "n 2"], Int[Tensor, " n"]]:
        """See :class:`PointData`."""
        label = torch.randint(self.classes, (n,), generator=generator)
        if self.ordered:
            label = torch.arange(n) * self.classes // n
        return self.centres[label] + self.deviation * normal((n, 2), generator), label


class TwoMoons(PointData):
    """Two half circles of radius ``radius`` that reach into each other, with Gaussian noise; the class is the moon."""

    classes = 2

    def __init__(
        self, *, radius: float = 2.0, deviation: float = 0.1, size: int = 100_000, held_out: int = 4000, seed: int = 0
    ) -> None:
        super().__init__(size=size, held_out=held_out, seed=seed)
        self.radius, self.deviation = radius, deviation

    def draw(self, n: int, generator: torch.Generator) -> tuple[Float[Tensor, "n 2"], Int[Tensor, " n"]]:
        """See :class:`PointData`."""
        label = torch.randint(2, (n,), generator=generator)
        angle = math.pi * uniform((n,), generator)
        side = 1.0 - 2.0 * label
        # The second moon is the first one turned by half a circle about the middle between them.
        x = torch.stack([side * (angle.cos() - 0.5), side * (angle.sin() - 0.25)], 1) * self.radius
        return x + self.deviation * normal((n, 2), generator), label


class BranchingData(PointData):
    """Classes that differ in how much is left open: class c is one of 2^c points on a circle of radius ``radius``, all
    equally likely, with Gaussian noise of deviation ``deviation``. Class 0 is a certain answer.
    """

    def __init__(
        self,
        *,
        classes: int = 4,
        radius: float = 2.0,
        deviation: float = 0.02,
        size: int = 100_000,
        held_out: int = 4000,
        seed: int = 0,
    ) -> None:
        super().__init__(size=size, held_out=held_out, seed=seed)
        self.classes, self.radius, self.deviation = classes, radius, deviation

    def draw(self, n: int, generator: torch.Generator) -> tuple[Float[Tensor, "n 2"], Int[Tensor, " n"]]:
        """See :class:`PointData`."""
        label = torch.randint(self.classes, (n,), generator=generator)
        branch = (uniform((n,), generator) * 2.0**label).floor()
        angle = 2 * math.pi * branch / 2.0**label
        x = self.radius * torch.stack([angle.cos(), angle.sin()], 1)
        return x + self.deviation * normal((n, 2), generator), label


class PointsTask(Task):
    """Learn a law of points with any objective and any small network.

    Args:
        network: builds a network to the objective's order; a recipe names ``MLP`` and its sizes.
        objective: what is minimised.
        dimension: coordinates of a point.
        classes: 0 learns the law of all points; n gives the network the condition ``label`` in 0 .. n - 1 (n is the
            null label).
    """

    def __init__(
        self, network: Callable[[NetworkSpec], Network], objective: Objective, *, dimension: int = 2, classes: int = 0
    ) -> None:
        super().__init__()
        self.objective = objective
        labels = {"label": classes} if classes else {}
        self.networks = Networks.build(
            objective.needs(), lambda spec: network(replace(spec, state=(dimension,), labels=labels))
        )
        self.dimension, self.classes = dimension, classes

    def cond(self, label: Int[Tensor, " n"]) -> Cond:
        """The condition of points of the classes ``label``; empty where the task has no classes."""
        return Cond({"label": label.to(self.device)}, nulls={"label": self.classes}) if self.classes else Cond()

    def prepare(self, raw: RawBatch, generator: RandomSource | None = None) -> Batch:
        """``x`` becomes x1 as it is; ``x0`` where the batch brings one."""
        return Batch(x1=raw["x"], x0=raw.get("x0"), cond=self.cond(raw["label"]) if self.classes else Cond())

    @torch.no_grad()
    def draw(self, n: int, *, sampler: Sampler, seed: int = 0, label: Int[Tensor, " n"] | None = None) -> Solution:
        """``n`` points from the learnt law; where the task has classes and ``label`` is None, of classes drawn at
        random.
        """
        generator = torch.Generator(self.device).manual_seed(mix_seed(seed))
        if self.classes and label is None:
            label = (uniform((n,), generator, device=self.device) * self.classes).long()
        cond = Cond() if label is None else self.cond(label)
        like = torch.zeros(n, self.dimension, device=self.device)
        was_training = self.training
        self.eval()
        try:
            return self.objective.generate(self.networks, like, cond, sampler=sampler, generator=generator)
        finally:
            self.train(was_training)

    def evaluate(
        self, samples: Samples, *, sampler: Sampler, seed: int = 0, limit: int | None = None
    ) -> dict[str, float]:
        """Energy distance and exact W2 to real points of the same number (at most 2000), and evaluations."""
        n = min(len(samples), limit or 2000, 2000)
        real = samples.batch(range(n))
        solution = self.draw(n, sampler=sampler, seed=seed, label=real["label"] if self.classes else None)
        made, true = solution.x.cpu(), real["x"].cpu()
        counts = count_summary(solution)
        return {
            "energy_distance": energy_distance(made, true),
            "wasserstein2": wasserstein2(made, true),
            "nfe": counts["nfe"],
            "failed": counts["failed"],
        }

    def present(self, samples: Samples, *, sampler: Sampler, seed: int = 0) -> Mapping[str, Presentation]:
        """Real points and made ones in one picture."""
        real = samples.batch(range(min(len(samples), 1000)))
        made = self.draw(len(real["x"]), sampler=sampler, seed=seed, label=real["label"] if self.classes else None)
        return {"points": scatter({"real": real["x"], "made": made.x})}

    def sample(
        self, n: int, *, sampler: Sampler, seed: int = 0, request: Mapping[str, Any] | None = None
    ) -> Mapping[str, Presentation]:
        """A picture of ``n`` points; ``request`` may hold a ``label``."""
        return {
            "points": scatter({"made": PointsPipeline(self, sampler)(n, seed=seed, **self._requested(request)).cpu()})
        }

    def _requested(self, request: Mapping[str, Any] | None) -> dict[str, int]:
        known = ("label",) if self.classes else ()
        for name in request or {}:
            if name not in known:
                raise UserError(f"points cannot be asked for {name!r}: {nearest(name, known)}")
        return {name: int(value) for name, value in (request or {}).items()}

    def pipeline(self, sampler: Sampler) -> PointsPipeline:
        """What ``flowkit.load`` gives."""
        return PointsPipeline(self, sampler)


class PointsPipeline:
    """Draws points: ``pipeline(1000, seed=0)``."""

    def __init__(self, task: PointsTask, sampler: Sampler) -> None:
        self.task, self.sampler = task, sampler

    def __call__(self, n: int, *, seed: int = 0, label: int | None = None) -> Float[Tensor, "n d"]:
        """``n`` points, all of the class ``label`` where it is given.

        Raises:
            UserError: the task has no such class.
        """
        if label is None:
            return self.task.draw(n, sampler=self.sampler, seed=seed).x
        if not 0 <= label < self.task.classes:
            classes = (
                f"its classes are 0 to {self.task.classes - 1}"
                if self.task.classes
                else "it was trained without classes"
            )
            raise UserError(f"the model has no class {label}: {classes}")
        labels = torch.full((n,), label, dtype=torch.long, device=self.task.device)
        return self.task.draw(n, sampler=self.sampler, seed=seed, label=labels).x


def scatter(sets: Mapping[str, Float[Tensor, "n d"]]) -> Picture:
    """Sets of points side by side on equal axes (the first two coordinates; of one, its histogram)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.0 * len(sets), 4.0), layout="constrained")
    arrays = {name: points.detach().float().cpu().numpy() for name, points in sets.items()}
    reach = max(1e-6, *(float(abs(array).max()) for array in arrays.values() if array.size)) * 1.05
    for axes, (name, array) in zip(figure.subplots(1, len(sets), squeeze=False)[0], arrays.items(), strict=True):
        if array.shape[1] == 1:
            axes.hist(array[:, 0], bins=60, range=(-reach, reach))
        else:
            axes.scatter(array[:, 0], array[:, 1], s=3 if len(array) > 200 else 15, alpha=0.5, linewidths=0)
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        axes.set_title(name)
    return Picture.of_figure(figure)
