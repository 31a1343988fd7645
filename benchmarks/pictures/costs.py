"""What a training step of each objective costs beside plain flow matching's, with the same network and batch."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from benchmarks.pictures.methods import METHODS, TEACHER, Method
from flowkit.config.overrides import Override
from flowkit.config.recipe import Built, load_recipe
from flowkit.data import DataSource
from flowkit.objectives.teacher import Teacher
from flowkit.random import Rows
from flowkit.solvers.sampler import Sampler
from flowkit.train.engine import loss_of
from flowkit.train.trainer import Trainer

Step = Callable[[], None]


def wait(device: torch.device) -> None:
    """For all that the device was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def autocast(device: torch.device) -> AbstractContextManager[Any]:
    """bf16 where the trainer takes it: on a GPU."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def built(recipe: str, method: Method, common: Sequence[Override], *, steps: int = 1000) -> Built:
    """The objects of a method's training."""
    changes = [*common, *method.overrides(steps), ("task.feature_steps", "0")]
    if method.pairs:
        changes.insert(len(common) + 1, ("task.objective.coupling", "GivenPairs"))
    return load_recipe(recipe, changes, trainer=Trainer).build("task", "trainer")


class Stepper:
    """Whole training steps of a method on one batch: loss, gradients, clipping, AdamW.

    Args:
        recipe: that the method changes.
        method: whose steps.
        raw: one raw batch of real data, on the device; pairs are made of it and noise.
        common: overrides of the recipe that all methods share.
    """

    def __init__(self, recipe: str, method: Method, raw: Mapping[str, Any], common: Sequence[Override] = ()) -> None:
        self.device = raw["picture"].device
        made = built(recipe, method, common)
        self.task = made.task.to(self.device).train()
        self.raw = dict(raw)
        if method.follows_teacher:
            guide = built(recipe, METHODS[TEACHER], common).task.to(self.device)
            self.task.objective.teacher = Teacher(guide.objective, guide.networks, Sampler())
        if method.pairs:
            x1 = self.task.prepare(self.raw, None).x1
            assert x1 is not None
            self.raw = {"pair_x0": torch.randn_like(x1), "pair_x1": x1}
        self.parameters = [p for p in self.task.parameters() if p.requires_grad]
        self.optimiser = made.trainer.optimiser.build(self.parameters, 1e-4)
        stages = self.task.pair_phases() if method.pairs else self.task.phases()
        self.stages = [stage.name for stage in stages]
        self.count = 0

    def __call__(self) -> None:
        """One step, of the stages of the training in turn."""
        self.count += 1
        stage = self.stages[self.count % len(self.stages)]
        with autocast(self.device):
            loss = loss_of(self.task, self.raw, phase=stage, step=10**6, generator=Rows(self.count, total=10**6))
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=False)
        self.task.after_step(self.count)


def seconds_a_step(step: Step, device: torch.device, *, steps: int) -> float:
    """Mean over ``steps`` steps in a row."""
    wait(device)
    began = time.perf_counter()
    for _ in range(steps):
        step()
    wait(device)
    return (time.perf_counter() - began) / steps


def cost_table(
    recipe: str, names: Sequence[str], raw: Mapping[str, Any], *, common: Sequence[Override] = (), steps: int = 20,
    rounds: int = 5, methods: Mapping[str, Method] = METHODS,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Name -> ``step_ms`` (median of the rounds), ``time_ratio`` (median of the ratios to plain flow matching in the
    same round) and ``peak_mb``, ``memory_ratio``: most memory in a step, weights and optimiser included (on a GPU).

    ``parameters`` counts what is optimised. Rounds take the methods in turn, so that a change of the machine's speed
    meets all.
    """
    device = raw["picture"].device
    steppers: dict[str, Stepper] = {}
    peaks: dict[str, float] = {}
    for name in dict.fromkeys([TEACHER, *names]):
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        steppers[name] = Stepper(recipe, methods[name], raw, common)
        seconds_a_step(steppers[name], device, steps=max(steps // 4, 2))
        if device.type == "cuda":
            peaks[name] = (torch.cuda.max_memory_allocated(device) - before) / 2**20
    times: dict[str, list[float]] = {name: [] for name in steppers}
    for _ in range(rounds):
        for name, step in steppers.items():
            times[name].append(seconds_a_step(step, device, steps=steps))
    table = {}
    for name, measured in times.items():
        ratios = [mine / plain for mine, plain in zip(measured, times[TEACHER], strict=True)]
        table[name] = {"step_ms": 1e3 * statistics.median(measured), "time_ratio": statistics.median(ratios)}
        table[name]["parameters"] = sum(p.numel() for p in steppers[name].parameters)
        if peaks:
            table[name] |= {"peak_mb": peaks[name], "memory_ratio": peaks[name] / peaks[TEACHER]}
    return table


def values(samples: Any, device: torch.device) -> torch.Tensor:
    """All pictures of a split in [-1, 1]."""
    from domains.imaging.features import byte_values

    return byte_values(samples.pictures.to(device))


def against_rival(
    recipe: str, data: DataSource, common: Sequence[Override], device: torch.device, folder: Path, *, steps: int
) -> dict[str, float]:
    """Whole training steps of our trainer and of torchcfm's loop, in turn: milliseconds and medians of the ratios to
    the rival in the same round; ``graphs`` is our trainer with CUDA graphs (on a GPU).

    The trainer reads its batches from the host and records; the loop gathers them on the device.
    """
    from benchmarks.pictures.rival import Rival

    rounds = 3
    kinds = {"eager": "false"} | ({"graphs": "true"} if device.type == "cuda" else {})
    times: dict[str, list[float]] = {name: [] for name in (*kinds, "torchcfm")}
    made = load_recipe(recipe, [*common, ("task.feature_steps", "0")], trainer=Trainer).build("task", "trainer")
    network = made.task.to(device).networks.main
    rival = Rival(
        network, values(data.split("train"), device), batch=made.trainer.batch, lr=made.trainer.lr,
        ema=made.trainer.ema, seed=0,
    )  # fmt: skip
    seconds_a_step(rival, device, steps=max(steps // 10, 2))
    for number in range(rounds):
        for kind, graphs in kinds.items():
            changes = [*common, ("task.feature_steps", "0"), ("trainer.graphs", graphs)]
            changes += [("trainer.steps", str(2 * steps)), ("trainer.log_every", str(steps))]
            parsed = load_recipe(recipe, changes, trainer=Trainer)
            ours = parsed.build()
            run = folder / f"timed-{kind}-{number}"
            ours.trainer.fit(
                ours.task, ours.data, sampler=ours.sampler, seed=0, folder=run, recipe_text=parsed.dump()
            )  # fmt: skip
            lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
            # The first half warms up; the second is read.
            times[kind].append([line["time/step_s"] for line in lines if "time/step_s" in line][-1])
        times["torchcfm"].append(seconds_a_step(rival, device, steps=steps))
    found = {f"{name}_ms": 1e3 * statistics.median(measured) for name, measured in times.items()}
    for kind in kinds:
        pairs = zip(times[kind], times["torchcfm"], strict=True)
        found[f"{kind}_ratio"] = statistics.median(mine / theirs for mine, theirs in pairs)
    return found
