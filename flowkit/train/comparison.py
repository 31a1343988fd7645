"""Objectives compared on one recipe: each is trained for as long as the others and measured by network calls."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flowkit import atomic
from flowkit.artifacts import describe_run, from_pretrained
from flowkit.config.overrides import Override
from flowkit.config.recipe import Recipe, load_recipe
from flowkit.data import DataSource
from flowkit.errors import UserError
from flowkit.objectives.objective import Objective
from flowkit.solvers.sampler import Sampler
from flowkit.train.comparison_entry import Entry
from flowkit.train.comparison_measures import judged, steps_for, straightness_of
from flowkit.train.reflow import Reflow
from flowkit.train.teacher import teach
from flowkit.train.trainer import Trainer

RESULTS = "results.json"


@dataclass(frozen=True)
class Comparison:
    """What all entries share.

    Args:
        recipe: name or file.
        entries: what is compared.
        nfe: numbers of network calls.
        steps: of each training; 0 takes the recipe's, or none where ``seconds`` end it.
        seconds: of each training, 0 for no limit.
        seeds: of trainings, each beside the recipe's own draws.
        overrides: of the recipe, for all entries.
        solver: for few steps, where an entry names none.
        split: that is measured; "" takes test, or validation where that is empty.
        limit: at most so many samples.
        device: where to train and measure.
        teacher: a run that pairs and lessons come from; "" takes the first entry that is trained on data alone.
        tell: called with a line about what is done.
    """

    recipe: str
    entries: Sequence[Entry]
    nfe: Sequence[int] = (1, 2, 4, 8)
    steps: int = 0
    seconds: float = 0.0
    seeds: Sequence[int] = (0,)
    overrides: Sequence[Override] = ()
    solver: str = "Euler"
    split: str = ""
    limit: int | None = None
    device: str = "cpu"
    teacher: str = ""
    tell: Callable[[str], None] = field(default=print, compare=False)
    #: Name -> changes of the sampler, where the recipe's steps are none that the objective can take.
    _fitting: dict[str, list[Override]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.entries]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UserError(f"--objectives names {twice[0]} twice")
        if not names or not self.seeds:
            raise UserError("--objectives and --seeds: a comparison needs one of each")
        if not self.nfe or min(self.nfe) < 1:
            raise UserError(f"--nfe {','.join(map(str, self.nfe))}: numbers of network calls, each at least 1")

    # --- training ---------------------------------------------------------------------------------------------------

    def check(self) -> dict[str, Recipe]:
        """Parse and build every entry's recipe before anything is trained; name -> recipe.

        Raises:
            UserError: a setting that is refused, no such teacher, or pairs and lessons without one.
        """
        found = {}
        if self.teacher:
            describe_run(self.teacher)
        for entry in self.entries:
            recipe = self._recipe(entry, self.seeds[0])
            try:
                built = recipe.build("task", "sampler")
                needs = bool(entry.pairs) or built.task.objective.needs_teacher
                if entry.name not in self._fitting:
                    self._fitting[entry.name] = self._fit(entry, built.task.objective, built.sampler)
            except UserError as error:
                raise UserError(f"{entry.name}: {error}") from error
            if needs and not self.teacher and self._plain(found) is None:
                what = "pairs" if entry.pairs else "lessons"
                raise UserError(
                    f"{entry.name} learns from a trained flow, and none gives it {what}: say --teacher RUN, "
                    "or name FlowMatching before it"
                )
            found[entry.name] = recipe
        return found

    def _fit(self, entry: Entry, objective: Objective, sampler: Sampler) -> list[Override]:
        """Steps that the objective can take, the most of ``nfe``; nothing where it can take the recipe's."""
        try:
            objective.check_sampler(sampler)
        except UserError:
            if not any(path == "sampler.steps" for path, _ in (*self.overrides, *entry.changes)):
                for calls in sorted(self.nfe, reverse=True):
                    steps = max(calls // sampler.solver.evaluations, 1)
                    try:
                        objective.check_sampler(replace(sampler, steps=steps))
                    except UserError:
                        continue
                    return [("sampler.steps", str(steps))]
            raise
        return []

    def run(self, out: Path) -> dict[str, Any]:
        """Train and measure what is missing in ``out``, where each training is a run; returns the report, which is also
        ``results.json`` there.

        Raises:
            UserError: the entries cannot be compared, or the folder holds another comparison.
        """
        recipe = next(iter(self.check().values()))
        data = recipe.build("data").data
        data.prepare()
        judged(data, self.split)
        report = self._begin(out)
        for seed in self.seeds:
            for entry in self.entries:
                known = report["results"][entry.name]
                if known.get(str(seed), {}).get("complete"):
                    continue
                self.tell(f"{entry.name}, seed {seed}")
                folder = out / entry.folder / f"seed-{seed}"
                taken = self._train(entry, seed, folder, out)
                if taken is None:
                    return report | {"status": "stopped"}
                known[str(seed)] = taken | self.measure(folder, entry) | {"complete": True}
                atomic.write_json(out / RESULTS, report)
        report["status"] = "complete"
        atomic.write_json(out / RESULTS, report)
        return report

    def _begin(self, out: Path) -> dict[str, Any]:
        same = {
            "recipe": self.recipe, "nfe": list(self.nfe), "steps": self.steps, "seconds": self.seconds,
            "overrides": [list(change) for change in self.overrides], "split": self.split, "limit": self.limit,
            "solver": self.solver, "teacher": self.teacher,
        }  # fmt: skip
        file = out / RESULTS
        if file.is_file():
            report = json.loads(file.read_text(encoding="utf-8"))
            differs = [key for key, value in same.items() if report["settings"].get(key) != value]
            if differs:
                raise UserError(
                    f"{out} holds a comparison with {differs[0]} = {report['settings'].get(differs[0])!r}, not "
                    f"{same[differs[0]]!r}: take the same settings to go on, or another --out"
                )
        else:
            report = {"settings": same, "results": {}}
        for entry in self.entries:
            report["results"].setdefault(entry.name, {})
        return report

    def _recipe(self, entry: Entry, seed: int, teacher: str = "") -> Recipe:
        changes: list[Override] = [("sampler.controller", "null"), ("sampler.solver", self.solver)]
        changes += [("sampler.guidance", "null")] if entry.pairs else []
        changes += [*self.overrides, *self._length(), ("seed", str(seed))]
        steps = 0 if self.seconds and not self.steps else self._steps()
        changes += [*entry.overrides(steps), *self._fitting.get(entry.name, ())]
        changes += [("teacher", json.dumps(teacher))] if teacher else []
        return load_recipe(self.recipe, changes, trainer=Trainer)

    def _steps(self) -> int:
        if self.steps:
            return self.steps
        return int(load_recipe(self.recipe, self.overrides, trainer=Trainer).resolved["trainer"]["steps"])

    def _length(self) -> list[Override]:
        changes: list[Override] = [("trainer.device", "cpu")] if self.device == "cpu" else []
        if self.seconds:
            # Rates fall with the time that is gone; steps are no limit unless asked for.
            changes += [("trainer.seconds", str(self.seconds)), ("trainer.steps", str(self.steps or 10_000_000))]
        elif self.steps:
            changes.append(("trainer.steps", str(self.steps)))
        return changes

    def _plain(self, names: Iterable[str]) -> Entry | None:
        """The entry that teaches the others: the first flow trained on data alone."""
        for entry in self.entries:
            if entry.name in names and not entry.pairs and entry.name.split(":")[0] == "FlowMatching":
                return entry
        return None

    def _train(self, entry: Entry, seed: int, folder: Path, out: Path) -> dict[str, Any] | None:
        """Train, or go on; None where a signal stopped it."""
        plain = self._plain([other.name for other in self.entries])
        teacher = self.teacher or (str(out / plain.folder / f"seed-{seed}") if plain and plain is not entry else "")
        began = time.perf_counter()
        if entry.pairs:
            summary = self._student(entry, seed, folder, teacher)
        else:
            recipe = self._recipe(entry, seed)
            built = recipe.build()
            if built.task.objective.needs_teacher:
                recipe = self._recipe(entry, seed, teacher)
                built = recipe.build()
            else:
                teacher = ""
            occupied = (folder / "recipe.yaml").is_file()
            summary = built.trainer.fit(
                built.task, built.data, sampler=built.sampler, seed=built.seed, folder=folder,
                recipe_text=recipe.dump(), resume="last" if occupied else None, teacher=teach(recipe, built.task),
            )  # fmt: skip
        if str(summary["status"]).startswith("stopped"):
            return None
        taken = {key: summary[key] for key in ("steps", "seconds", "peak_memory_mb", "objective", "device")}
        taken["parameters"] = sum(summary["parameters"].values())
        if teacher:
            summary = Path(teacher) / "summary.json"
            lessons = json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else {}
            taken |= {"teacher": teacher, "teacher_seconds": lessons.get("seconds")}
        if entry.pairs:
            taken["pairs_seconds"] = max(time.perf_counter() - began - taken["seconds"], 0.0)
        return taken

    def _student(self, entry: Entry, seed: int, folder: Path, teacher: str) -> dict[str, Any]:
        trained = [c for c in self.overrides if not c[0].startswith("data.")] + self._length()
        steps = 0 if self.seconds and not self.steps else self._steps()
        changes = [*trained, ("sampler.solver", self.solver), *entry.overrides(steps), ("seed", str(seed))]
        changes += self._fitting[entry.name]
        settings = Reflow(pairs=entry.pairs, overrides=changes, seed=seed, device=self.device)
        return settings.round(teacher, folder)

    # --- measuring --------------------------------------------------------------------------------------------------

    def measure(self, folder: Path, entry: Entry) -> dict[str, Any]:
        """Measures by number of network calls, why some are missing, and how straight the trajectories are."""
        loaded = from_pretrained(folder, device=self.device, with_data=True)
        data = loaded.data
        assert isinstance(data, DataSource)
        data.prepare()
        samples = judged(data, self.split)
        points, missing = {}, {}
        for calls in self.nfe:
            try:
                steps = steps_for(loaded, samples, calls)
                sampler = replace(loaded.sampler, steps=steps, controller=None)
                points[str(calls)] = {
                    "steps": steps,
                    **loaded.task.evaluate(samples, sampler=sampler, seed=self.seeds[0], limit=self.limit),
                }
            except UserError as error:
                missing[str(calls)] = str(error)
        if not points:
            first = next(iter(missing.values()))
            raise UserError(f"{entry.name} cannot be sampled with any of these numbers of network calls: {first}")
        return {"points": points, "missing": missing, "relative_straightness": straightness_of(loaded.task, samples)}
