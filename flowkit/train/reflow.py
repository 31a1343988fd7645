"""Reflow: train a flow on the pairs that it made, round after round, and perhaps distil the last one.

Liu et al. 2022, "Flow Straight and Fast" (arXiv 2209.03003): with pairs (Z_0, Z_1) of the trained flow as the coupling,
the next flow keeps the law of the ends, its transport cost is not higher for any convex cost, and its trajectories are
straighter. Each round is an ordinary run: its folder can be sampled, evaluated, resumed and rectified again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowkit import adapters
from flowkit.artifacts import Artifact, describe_run, from_pretrained
from flowkit.config.check import specification
from flowkit.config.classes import import_path, parameters, resolve, slot
from flowkit.config.overrides import Override
from flowkit.config.recipe import Built, Recipe, parse_recipe
from flowkit.config.yamlfile import read_yaml
from flowkit.couplings.coupling import Batch
from flowkit.data import Samples
from flowkit.errors import UserError
from flowkit.objectives.objective import Objective
from flowkit.procedures.pair_data import PairData
from flowkit.procedures.pair_store import read_manifest, weights_digest
from flowkit.procedures.pairs import PairPlan, generate_pairs
from flowkit.random import Rows, mix_seed
from flowkit.solvers.rk4 import RK4
from flowkit.solvers.sampler import Sampler
from flowkit.tasks import Task
from flowkit.train.engine import to_device
from flowkit.train.trainer import Trainer
from flowkit.version import __version__

#: Folder of the pairs inside a round's.
PAIRS = "pairs"
#: The run's own sampler is made for few steps; pairs are made once, and the student learns their error too.
ACCURATE: tuple[Override, ...] = (
    ("sampler.controller", "null"), ("sampler.solver", import_path(RK4)), ("sampler.steps", "25"),
    ("sampler.temperature", "1.0"),
)  # fmt: skip
_ORDER, _DRAWS = 0x0DE2, 0xD2A5


@dataclass(frozen=True)
class Reflow:
    """What all rounds share.

    Args:
        pairs: of each round.
        batch: pairs solved together; 0 takes the trainer's batch.
        shard: pairs of one file, which are held in memory until it is written; 0 takes eight batches.
        inverted: share of pairs that run from real data back to noise, in [0, 1].
        project: make the noise of inverted pairs normal.
        sampler: overrides of how the teacher makes pairs, on top of :data:`ACCURATE`.
        overrides: of the student's recipe (``trainer.steps``, ``sampler.steps``, ...).
        seed: of the pairs.
        device: that makes the pairs.
        dry_run: a few pairs, two steps; nothing but the pairs is written.
    """

    pairs: int = 30_000
    batch: int = 0
    shard: int = 0
    inverted: float = 0.0
    project: bool = False
    sampler: Sequence[Override] = ()
    overrides: Sequence[Override] = ()
    seed: int = 0
    device: str = "cpu"
    dry_run: bool = False
    on_progress: Callable[[int, int], None] | None = field(default=None, compare=False)

    def round(self, teacher: str | Path, folder: Path, *, distil: int = 0) -> dict[str, Any]:
        """One round: pairs of ``teacher`` in ``folder/pairs``, then a student in ``folder`` that begins as its teacher;
        the same call goes on with a round that was interrupted.

        Args:
            teacher: a run, a pretrained name or a model folder.
            folder: of the student's run.
            distil: train for an Euler sampler of so many steps alone; 0 rectifies.

        Returns:
            What ``summary.json`` of the round holds.

        Raises:
            UserError: the run cannot be rectified, or the folder holds another round.
        """
        guide = from_pretrained(teacher, device=self.device, overrides=[*ACCURATE, *self.sampler])
        adapters.merge(guide.task)  # the student is a plain model
        guide.task.requires_grad_(False)
        for span in [(0.0, 1.0)] * (self.inverted < 1.0) + [(1.0, 0.0)] * (self.inverted > 0.0):
            guide.task.objective.check_sampler(guide.sampler, span)
        digest = weights_digest(guide.task.state_dict())
        store = folder / PAIRS
        recipe = self._student(teacher, guide, store, digest, distil)
        built = recipe.build()
        if built.task.objective.needs_teacher:
            raise UserError(
                f"{type(built.task.objective).__name__} asks its teacher in training and wants no pairs: "
                f"train a recipe with teacher: {teacher}"
            )
        built.task.objective.check_sampler(built.sampler)
        _begin_as(built.task, guide.task)
        self._make(guide, built, store, digest, str(teacher))
        del guide  # its memory is wanted
        occupied = not self.dry_run and (folder / "recipe.yaml").is_file()
        return built.trainer.fit(
            built.task, built.data, sampler=built.sampler, seed=built.seed, folder=folder, recipe_text=recipe.dump(),
            resume="last" if occupied else None, dry_run=self.dry_run, warm_start=True,
        )  # fmt: skip

    def _student(self, teacher: str | Path, guide: Artifact, store: Path, digest: str, distil: int) -> Recipe:
        """The teacher's recipe with pairs for data, and what follows from that."""
        path = describe_run(teacher)["recipe"]
        raw = dict(read_yaml(Path(path)))
        data = raw.get("data")
        if isinstance(data, dict) and str(data.get("class_path", "")).endswith(f"{PairData.__name__}"):
            data = data["init_args"]["data"]
        arguments = {"store": str(store), "data": data, "teacher": digest}
        raw["data"] = {"class_path": import_path(PairData), "init_args": arguments}
        for other in ("teacher", "finetune"):
            raw.pop(other, None)
        key, accepted = _objective_of(guide.task)
        if any(path_ == f"task.{key}" for path_, _ in self.overrides):
            raw["task"] = _without_defaults(raw["task"], key, type(guide.task.objective))
        changes: list[Override] = [(f"task.{key}.coupling", "GivenPairs")]
        # The pairs held out say how far the student is; sampling with many steps would favour its first steps.
        changes += [("trainer.best", "eval/loss"), ("trainer.mode", "min")]
        if guide.sampler.guidance is not None:
            # The pairs are guided ones, so the student needs no guidance and no unconditional half.
            changes.append(("sampler.guidance", "null"))
            changes += [(f"task.{key}.drop_condition", "0.0")] if "drop_condition" in accepted else []
        if distil:
            changes += [(f"task.{key}.times", "GridTimes"), (f"task.{key}.times.steps", str(distil))]
            changes += [("sampler.controller", "null"), ("sampler.solver", "Euler"), ("sampler.grid", "UniformGrid")]
            changes += [("sampler.steps", str(distil))]
        return parse_recipe(raw, str(path), [*changes, *self.overrides], trainer=Trainer)

    def _make(self, guide: Artifact, built: Built, store: Path, digest: str, name: str) -> None:
        assert isinstance(built.data, PairData)
        real = built.data.data
        real.prepare()
        samples = real.split("train")
        samples.pad_multiple = max(built.trainer.bucket, 1)
        batch = self.batch or built.trainer.batch
        pairs = min(self.pairs, 2 * batch) if self.dry_run else self.pairs
        plan = PairPlan(
            pairs,
            shard=self.shard or 8 * batch,
            batch=batch,
            seed=self.seed,
            inverted=self.inverted,
            project=self.project,
        )
        conditions = Conditions(guide.task, samples, self.seed)
        record = {
            "teacher": digest, "name": name, "task": type(guide.task).__name__,
            "objective": type(guide.task.objective).__name__, **sampler_record(guide.sampler),
            "direction": "x0 is the noise at t = 0, x1 the data at t = 1", "flowkit": __version__,
        }  # fmt: skip
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            # Processes would write the same files: one makes the pairs, all train on them.
            if not (read_manifest(store) or {}).get("complete"):
                raise UserError(
                    f"{store} holds no finished pairs, and one process makes them: run this command without torchrun "
                    "until it trains, then launch it again"
                )
            return
        generate_pairs(
            store, guide.task.objective, guide.task.networks, conditions, plan=plan, sampler=guide.sampler,
            provenance=record, lengths=conditions.lengths, on_progress=self.on_progress,
        )  # fmt: skip


class Conditions:
    """What each pair is made of: a sample of the real data by the number of the pair, encoded by the teacher's task.

    Every sample comes once before one comes again, in an order that is a function of (seed, time round the data).

    Args:
        task: encodes; in evaluation mode.
        samples: the real training split.
        seed: of the order, and of what the task draws.
    """

    def __init__(self, task: Task, samples: Samples, seed: int) -> None:
        if len(samples) < 1:
            raise UserError("the training split is empty: there is nothing to make pairs of")
        self.task, self.samples, self.seed = task, samples, seed
        self._orders: dict[int, torch.Tensor] = {}
        self._lengths = samples.lengths()

    def rows(self, numbers: Sequence[int]) -> list[int]:
        """Samples of the pairs ``numbers``."""
        return [int(self._order(number // len(self.samples))[number % len(self.samples)]) for number in numbers]

    def _order(self, time: int) -> torch.Tensor:
        if time not in self._orders:
            generator = torch.Generator().manual_seed(mix_seed(self.seed, _ORDER, time))
            self._orders = {k: v for k, v in self._orders.items() if k == time - 1}
            self._orders[time] = torch.randperm(len(self.samples), generator=generator)
        return self._orders[time]

    def __call__(self, numbers: Sequence[int]) -> Batch:
        """The batch of the pairs ``numbers``, on the task's device."""
        raw = to_device(self.samples.batch(self.rows(numbers)), self.task.device)
        return self.task.pair_inputs(raw, Rows(mix_seed(self.seed, _DRAWS, *numbers[:1])))

    def lengths(self, numbers: Sequence[int]) -> np.ndarray | None:
        """Lengths of their samples, or None where all are equal."""
        return None if self._lengths is None else np.asarray(self._lengths)[self.rows(numbers)]


def sampler_record(sampler: Sampler) -> dict[str, Any]:
    """A sampler as plain data, for the record of pairs."""

    def brief(part: Any) -> Any:
        if part is None:
            return None
        described = specification(part)
        return {"class": type(part).__name__, **described["init_args"]}

    chosen = {"steps": sampler.steps, "grid": brief(sampler.grid)} if sampler.controller is None else {}
    return {
        "solver": type(sampler.solver).__name__, **chosen, "controller": brief(sampler.controller),
        "guidance": brief(sampler.guidance), "temperature": sampler.temperature,
    }  # fmt: skip


def _objective_of(task: Task) -> tuple[str, Iterable[str]]:
    """The key of a task's objective in its recipe, and what the objective's constructor takes."""
    keys = [
        name
        for name, parameter in (parameters(type(task)) or {}).items()
        if (place := slot(parameter.annotation)) is not None and issubclass(place.base, Objective) and not place.skip
    ]
    accepted = parameters(resolve(Objective, import_path(type(task.objective)), "objective")) or {}
    if not keys or "coupling" not in accepted:
        raise UserError(
            f"{type(task).__name__} with {type(task.objective).__name__} cannot be rectified: that needs an objective "
            "with a coupling, such as FlowMatching"
        )
    return keys[0], accepted


def _without_defaults(task: Mapping[str, Any], key: str, objective: type) -> dict[str, Any]:
    """A resolved ``task`` whose objective says only what differs from the defaults of its class ``objective``: another
    class then has defaults of its own. What the network predicts stays as the teacher's: its weights mean that."""
    arguments = dict(task["init_args"])
    given = dict(arguments[key].get("init_args") or {})
    for name, parameter in (parameters(objective) or {}).items():
        if (
            name in given
            and name != "prediction"
            and not parameter.required
            and given[name] == _written(parameter.default)
        ):
            del given[name]
    arguments[key] = {**arguments[key], "init_args": given}
    return {**task, "init_args": arguments}


def _written(value: Any) -> Any:
    """A default as a resolved recipe writes it."""
    plain = value is None or isinstance(value, bool | int | float | str | list | tuple | dict)
    return value if plain else specification(value)


def _begin_as(student: Task, teacher: Task) -> None:
    """Copy the teacher's state. The objective's own may differ (another law of times), and another objective may have
    networks that the teacher lacks, which begin like the one that it names for them or afresh, or lack some of the
    teacher's."""
    given, wanted = teacher.state_dict(), student.state_dict()
    alone = tuple(student.networks.prefix(name) for name in {*student.networks} ^ {*teacher.networks})
    strange = [
        name
        for name in sorted({*given, *wanted})
        if not name.startswith(("objective.", *alone))
        and (name not in given or name not in wanted or given[name].shape != wanted[name].shape)
    ]
    if strange:
        raise UserError(f"the student differs from its teacher ({strange[0]}): change no network in a reflow")
    fitting = {name: value for name, value in given.items() if name in wanted and value.shape == wanted[name].shape}
    student.load_state_dict(fitting, strict=False)
    student.networks.begin_like(teacher.networks)
    for name in student.networks.leaders:
        student.networks.follow(name)
