"""Few-step quality on Fashion-MNIST: every method trained for the same time, with the same network, data and batch.

Reported for each: Frechet distance of 10,000 made pictures to the test set in the features of a classifier of ours
(``domains/imaging/features.py``; its accuracy is told, and the distance of 10,000 training pictures: the floor), at 1,
2, 4 and 8 network calls and, where there is a field, at the calls of an adaptive solver; steps and seconds of training,
those of the teacher and of its pairs beside them; straightness; and a table of what a training step costs over plain
flow matching's. ``torchcfm`` is trained likewise by a bare loop, and its steps are timed against our trainer's in turn.

    python benchmarks/fashion.py --data fashion.npz --prepare                     # the feature network, into the cache
    python benchmarks/fashion.py --data fashion.npz --methods flow-matching reflow --minutes 8 --out a.json
    python benchmarks/fashion.py --merge a.json b.json --out benchmarks/out/fashion.json

The archive holds train, train_labels, test and test_labels; a folder of the four IDX files will do as well.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: the root of the repository holds the modules
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.pictures import costs
from benchmarks.pictures.judge import Judge
from benchmarks.pictures.methods import METHODS, TEACHER, USUAL, Method
from benchmarks.pictures.report import merge, table
from flowkit import atomic
from flowkit.artifacts import from_pretrained
from flowkit.config.overrides import Override
from flowkit.config.recipe import load_recipe
from flowkit.train.reflow import PAIRS, Reflow
from flowkit.train.summary import device_name
from flowkit.train.teacher import teach
from flowkit.train.trainer import Trainer

RECIPE = "imaging/fashion-flow-matching"
RIVAL = "torchcfm"
#: Rough seconds beside the training of a method (judging, loading), of the pairs, and of the tables of costs.
_JUDGING, _PAIRS, _COSTS = 25.0, 40.0, 30.0


def folder_of(data: Path, into: Path) -> Path:
    """IDX files of an archive, written where it is none."""
    if data.is_dir():
        return data
    archive = np.load(data)
    for prefix, name in (("train", "train"), ("t10k", "test")):
        for kind, array in (("images-idx3", archive[name]), ("labels-idx1", archive[f"{name}_labels"])):
            header = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes()
            atomic.write_bytes(into / f"{prefix}-{kind}-ubyte", header + array.astype(np.uint8).tobytes())
    return into


class Bench:
    """Everything of one process.

    Args:
        arguments: the command line.
        folder: of runs, thrown away afterwards.
    """

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments, self.folder = arguments, folder
        self.device = torch.device(arguments.device)
        files = folder_of(arguments.data, folder)
        self.common: list[Override] = [
            ("data.folder", json.dumps(str(files))), ("data.validation", "1000"), ("trainer.progress", "false"),
            ("trainer.tensorboard", "false"), ("trainer.evaluate_every", "0"), ("trainer.sample_every", "0"),
            ("trainer.checkpoint_every", "0"), *arguments.set,
        ]  # fmt: skip
        if self.device.type == "cpu":
            self.common += [("trainer.device", "cpu"), ("trainer.precision", "fp32"), ("trainer.graphs", "false")]
        recipe = load_recipe(RECIPE, self.common, trainer=Trainer).build()
        self.batch, self.data = recipe.trainer.batch, recipe.data
        self.judge = Judge(recipe.task, self.data, self.device, pictures=arguments.pictures)
        self.results: dict[str, Any] = {}
        self.pairs_seconds: dict[int, float] = {}

    def raw(self) -> dict[str, torch.Tensor]:
        """One raw batch on the device."""
        return {k: v.to(self.device) for k, v in self.data.split("train").batch(range(self.batch)).items()}

    # --- training ---------------------------------------------------------------------------------------------------

    def steps(self, method: Method, seconds: float) -> int:
        """Steps that fit in ``seconds``, by the time of a few; only stages need to know, and those are launched step by
        step.
        """
        if self.arguments.steps:
            return self.arguments.steps
        if not method.stages:
            return 10**7
        step = costs.Stepper(RECIPE, method, self.raw(), self.common)
        costs.seconds_a_step(step, self.device, steps=10)
        # The trainer reads, averages and records beside: about a twentieth.
        return max(int(seconds / (1.05 * costs.seconds_a_step(step, self.device, steps=20))), 10)

    def train(self, name: str, seed: int, seconds: float) -> tuple[Path, dict[str, Any]]:
        """Train a method that needs no pairs; returns its run and what it took."""
        method, folder = METHODS[name], self.folder / f"{name}-{seed}"
        steps = self.steps(method, seconds)
        changes = [*self.common, *method.overrides(steps), ("trainer.steps", str(steps))]
        changes += [("seed", str(seed)), ("trainer.seconds", "0" if self.arguments.steps else f"{seconds:.1f}")]
        if method.follows_teacher:
            changes.append(("teacher", json.dumps(str(self.folder / f"{TEACHER}-{seed}"))))
        recipe = load_recipe(RECIPE, changes, trainer=Trainer)
        made = recipe.build()
        summary = made.trainer.fit(
            made.task, made.data, sampler=made.sampler, seed=seed, folder=folder, recipe_text=recipe.dump(),
            teacher=teach(recipe, made.task),
        )  # fmt: skip
        return folder, _taken(summary)

    def student(self, name: str, seed: int, seconds: float) -> tuple[Path, dict[str, Any]]:
        """Train a method on pairs of the plain flow of the same seed, all methods on the same pairs."""
        method, folder = METHODS[name], self.folder / f"{name}-{seed}"
        steps = self.steps(method, seconds)
        pairs = self.folder / f"pairs-{seed}"
        folder.mkdir()
        pairs.mkdir(exist_ok=True)
        (folder / PAIRS).symlink_to(pairs, target_is_directory=True)
        plain = [change for change in self.common if not change[0].startswith("data.")]
        changes = [*plain, *method.overrides(steps), ("trainer.steps", str(steps)), ("trainer.lr", "3e-4")]
        if not self.arguments.steps:
            changes.append(("trainer.seconds", f"{seconds:.1f}"))
        sampler = [("sampler.solver", "Midpoint"), ("sampler.steps", str(self.arguments.pair_steps))]
        reflow = Reflow(
            pairs=self.arguments.pairs, batch=min(1000, self.arguments.pairs), sampler=sampler, overrides=changes,
            seed=seed, device=str(self.device),
        )  # fmt: skip
        began = time.perf_counter()
        summary = reflow.round(self.folder / f"{TEACHER}-{seed}", folder)
        whole = time.perf_counter() - began
        taken = _taken(summary)
        # The first student's round makes the pairs, the others find them.
        made = self.pairs_seconds.setdefault(seed, whole - taken["seconds"])
        return folder, taken | {
            "teacher_seconds": self.results[TEACHER][str(seed)]["seconds"],
            "pairs_seconds": made,
            "pairs": self.arguments.pairs,
        }

    def rival(self, seed: int, seconds: float) -> dict[str, Any]:
        """torchcfm in a bare loop."""
        from benchmarks.pictures.rival import Rival

        made = load_recipe(RECIPE, [*self.common, ("seed", str(seed))], trainer=Trainer).build("task", "trainer")
        task, trainer = made.task.to(self.device), made.trainer
        data = costs.values(self.data.split("train"), self.device)
        rival = Rival(
            task.networks.main,
            data,
            batch=trainer.batch,
            lr=trainer.lr,
            ema=trainer.ema,
            seed=seed,
        )
        taken = rival.train(seconds, self.arguments.steps or 10**9)
        return {"steps": rival.count, "seconds": taken, **self.judge.few_steps(task, METHODS[TEACHER])}

    # --- everything -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """All methods of the command line, seed by seed; results are written as they come."""
        arguments = self.arguments
        names = list(arguments.methods)
        taught = [name for name in names if name != RIVAL and (METHODS[name].pairs or METHODS[name].follows_teacher)]
        if taught:
            names = [TEACHER, *(n for n in names if n != TEACHER)]
        trainings = len(names) * len(arguments.seeds)
        spare = arguments.minutes * 60.0 - _COSTS - _JUDGING * trainings - _PAIRS
        seconds = max(spare / trainings, 5.0) if not arguments.train_seconds else arguments.train_seconds
        print(f"{trainings} trainings of {seconds:.0f} s each on {device_name(self.device)}", flush=True)
        self.results["costs"] = {}
        if not arguments.no_costs:
            ours = [name for name in (arguments.costs or METHODS) if name != RIVAL]
            self.results["costs"] = costs.cost_table(
                RECIPE, ours, self.raw(), common=self.common, steps=3 if arguments.steps else 20,
                rounds=2 if arguments.steps else 5,
            )  # fmt: skip
            self.write()
        if RIVAL in names:
            self.results["step_times"] = costs.against_rival(
                RECIPE, self.data, self.common, self.device, self.folder, steps=4 if arguments.steps else 150
            )
            self.write()
        for seed in arguments.seeds:
            for name in names:
                result = self._one(name, seed, seconds)
                self.results.setdefault(name, {})[str(seed)] = result
                self.write()
                print(f"{name} seed {seed}: {json.dumps(result)}", flush=True)
        print(table(self.report()))

    def _one(self, name: str, seed: int, seconds: float) -> dict[str, Any]:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if name == RIVAL:
            return self.rival(seed, seconds)
        method = METHODS[name]
        folder, taken = (self.student if method.pairs else self.train)(name, seed, seconds)
        task = from_pretrained(folder, device=self.device).task
        if method.follows_teacher:
            taken["teacher_seconds"] = self.results[TEACHER][str(seed)]["seconds"]
        return taken | self.judge.few_steps(task, method)

    def report(self) -> dict[str, Any]:
        """What is written."""
        return {
            "machine": device_name(self.device), "torch": torch.__version__, "batch": self.batch,
            "judge": self.judge.card, "results": self.results,
        }  # fmt: skip

    def write(self) -> None:
        """Write the report so far."""
        if self.arguments.out:
            self.arguments.out.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_json(self.arguments.out, self.report())


def _taken(summary: dict[str, Any]) -> dict[str, Any]:
    return {
        "steps": summary["steps"], "seconds": summary["seconds"], "peak_memory_mb": summary["peak_memory_mb"],
        "parameters": max(summary["parameters"].values()),
    }  # fmt: skip


def _override(text: str) -> Override:
    path, _, value = text.partition("=")
    return path, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the archive, or a folder of IDX files")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--methods", nargs="+", default=[*USUAL, RIVAL], choices=[*METHODS, RIVAL])
    parser.add_argument("--costs", nargs="*", help="methods in the table of costs (default all)")
    parser.add_argument("--no-costs", action="store_true")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="of the whole process, about")
    parser.add_argument("--train-seconds", type=float, default=0.0, help="of each training, instead of --minutes")
    parser.add_argument("--steps", type=int, default=0, help="of each training, instead of a time: for rehearsals")
    parser.add_argument("--pairs", type=int, default=60_000)
    parser.add_argument("--pair-steps", type=int, default=12, help="midpoint steps of the teacher")
    parser.add_argument("--pictures", type=int, default=10_000, help="made for a distance")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--set", nargs="*", type=_override, default=[], metavar="PATH=VALUE", help="of the recipe")
    parser.add_argument("--prepare", action="store_true", help="train the feature network into the cache, and end")
    parser.add_argument("--merge", nargs="+", type=Path, metavar="JSON")
    arguments = parser.parse_args()
    if arguments.merge:
        whole = merge(arguments.merge)
        print(table(whole))
        if arguments.out:
            atomic.write_json(arguments.out, whole)
        return
    if arguments.data is None:
        parser.error("--data: an archive, or a folder of IDX files")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("FLOWKIT_CACHE", str(Path(folder) / "cache"))
        bench = Bench(arguments, Path(folder))
        print(json.dumps(bench.judge.card), flush=True)
        if not arguments.prepare:
            bench.run()


if __name__ == "__main__":
    main()
