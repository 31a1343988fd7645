"""One training run: its parts, put together afresh or taken up from a checkpoint, and its summary."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flowkit import atomic
from flowkit.data import DataSource
from flowkit.errors import UserError
from flowkit.objectives.teacher import Teacher
from flowkit.solvers.sampler import Sampler
from flowkit.tasks import Phase, Task
from flowkit.train import engine, random_state, run_state, summary
from flowkit.train.blocks import blocks, recompute
from flowkit.train.checkpoint import Checkpoints
from flowkit.train.decentralised import team_state
from flowkit.train.ema import EMA
from flowkit.train.graphs import StepGraphs
from flowkit.train.loader import Loader, Order, Share
from flowkit.train.metrics import Metrics
from flowkit.train.progress import Progress
from flowkit.train.sharding import Sharded, copy_of
from flowkit.train.together import Together
from flowkit.train.turns import Turn, Turns, learning_parameters
from flowkit.train.window import Window

if TYPE_CHECKING:
    from flowkit.train.trainer import Trainer


class Run:
    """A training, from its arguments (those of :meth:`flowkit.train.trainer.Trainer.fit`) to its summary."""

    def __init__(
        self, trainer: Trainer, task: Task, data: DataSource, *, sampler: Sampler, seed: int, folder: Path,
        recipe_text: str, resume: str | int | None, overfit_batch: bool, dry_run: bool, warm_start: bool = False,
        teacher: Teacher | None = None,
    ) -> None:  # fmt: skip
        if dry_run:
            trainer = replace(
                trainer, steps=min(trainer.steps, 2), log_every=1, validation_batches=1, compile=False,
                evaluate_every=min(trainer.evaluate_every, 2), sample_every=min(trainer.sample_every, 2),
            )  # fmt: skip
        self.trainer, self.task, self.sampler, self.seed, self.dry_run = trainer, task, sampler, seed, dry_run
        self.folder, self.recipe_text = folder, recipe_text
        if task.objective.needs_teacher and teacher is None:
            raise UserError(f"{type(task.objective).__name__} learns from a trained flow: name it by the key teacher")
        task.objective.teacher = teacher
        networks_alone = data.pairs or teacher is not None
        phases = list(task.pair_phases() if networks_alone else task.phases())
        self.accelerator = engine.start(
            precision=trainer.precision, device=trainer.device, accumulate=trainer.accumulate,
            several_phases=len(phases) > 1, parallel=trainer.parallel,
        )  # fmt: skip
        self.together = Together(self.accelerator)
        self.team = trainer.topology.team(trainer, task, self.accelerator)
        task.objective.check_sampler(sampler)
        self.main, self.device = self.accelerator.is_main_process, self.accelerator.device
        self.teacher = None if teacher is None else teacher.to(self.device)
        self.checkpoints = Checkpoints(folder, keep=trainer.keep, mode=trainer.mode)
        found = None if dry_run else self._choose(resume)

        # Machines may have disks of their own: after the first process of all, the first of each other machine.
        with self.accelerator.main_process_first(), self.accelerator.local_main_process_first():
            data.prepare()
        self.samples = {"train": data.split("train"), "validation": data.split("validation")}
        # Each process decides the order for itself.
        sizes = {name: len(part) for name, part in self.samples.items()}
        self.together.same({**sizes, **self.samples["train"].about()}, "samples: give all machines the same data")
        self.samples["loss"] = data.loss_split() if data.pairs else self.samples["validation"]
        self.provenance = data.provenance()
        if found is None and not warm_start and teacher is None:
            if data.pairs:
                raise UserError("training on pairs starts from the weights of their teacher: use flowkit reflow")
            task.adapt(data)
        elif found is None and not data.pairs:
            task.refit(data)
        self.frozen = _freeze_all_but(task, phases) if networks_alone else []
        if self.device.type == "cuda" and trainer.tf32:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        if self.device.type == "cuda" and trainer.cudnn_benchmark:
            torch.backends.cudnn.benchmark = True
        random_state.seed_process(seed, self.accelerator.process_index)
        #: The user's task; what is trained is itself, or under FSDP a copy in parts.
        self.whole = task
        if trainer.parallel == "fsdp" and self.accelerator.num_processes > 1:
            self.task = task = copy_of(task)
        self.undo = recompute([block for _, block in blocks(task)]) if trainer.checkpoint_activations else None
        if trainer.compile:
            for network in self._compiled(task):
                network.compile()
        self.sharded: Sharded | None = None
        captures = self._captures(len(phases))
        if task is not self.whole:
            model, self.sharded = engine.shard(self.accelerator, self.whole, task)
        else:
            # Captured steps average gradients over the processes themselves, agents average none; without the flag
            # accelerate wraps DDP around.
            alone = captures or self.team is not None
            model = self.accelerator.prepare_model(engine.LossModule(task), evaluation_mode=alone)
        graphs = StepGraphs(self.accelerator, model) if captures else None
        self.named = learning_parameters(task)
        turns = [
            self.team.turn(phase, number, self.named)
            if self.team is not None
            else Turn(phase, number, self.named, optimiser=trainer.optimiser, lr=trainer.lr, steps=trainer.steps)
            for number, phase in enumerate(phases)
        ]
        self.turns = Turns(
            self.accelerator, model, turns, seed=seed, clip=trainer.clip, schedule=trainer.schedule,
            warmup=trainer.warmup, floor=trainer.floor, graphs=graphs,
            sharded=self.sharded,
        )  # fmt: skip
        if self.team is not None:
            self.team.assemble(self.turns, self.named, seed)
        self.ema = EMA(self.named, trainer.ema) if trainer.ema > 0 and self.team is None else None
        own = 1 if self.team is None else len(self.team.agents)
        self.loader = Loader(
            self.samples["train"], batch=trainer.batch, seed=seed, rank=self.accelerator.process_index,
            world=self.accelerator.num_processes, accumulate=trainer.accumulate * own, bucket=trainer.bucket,
            threads=trainer.prefetch, pinned=self.device.type == "cuda", repeat=overfit_batch,
            order=Order if self.team is None else self.team.order,
        )  # fmt: skip
        self.window, self.step, self.seconds = Window(), 0, 0.0
        self.results: dict[str, float] = {}
        #: The most memory that each of several processes took, once training is over.
        self.peaks: list[float] = []
        self.best: tuple[int, float] | None = None
        notes = [] if found is None else self._take_up(found[1])
        if found is None and resume is not None and not dry_run:
            notes = [f"no whole checkpoint in {self.checkpoints.folder}: starting from the beginning"]
        if self.team is not None:
            notes.append(self.team.describe())
        notes += self._idle(captures)
        self.begin()
        self._prepare_folder()
        writes = self.main and not dry_run
        self.metrics = Metrics(folder if writes else None, start=self.step, tensorboard=trainer.tensorboard)
        limit = trainer.seconds - self.seconds if trainer.seconds > 0 else float("inf")
        self.progress = Progress(trainer.steps, self.step, shown=trainer.progress and self.main, seconds=limit)
        for note in notes:
            self.progress.note(note)

    # Before the loop

    def _compiled(self, task: Task) -> list[torch.nn.Module]:
        """What torch.compile takes: whole networks, but where they are gathered in blocks those."""
        if task is self.whole:
            return [task.networks[name] for name in task.networks]
        return [block for _, block in blocks(task)]

    def _captures(self, phases: int) -> bool:
        """Whether CUDA graphs were asked for and can be had."""
        fits = self.device.type == "cuda" and self.accelerator.scaler is None
        return self.trainer.graphs and fits and phases == 1 and self.task.objective.capturable

    def _idle(self, captures: bool) -> list[str]:
        """What was asked for and does nothing here, a sentence each."""
        asked = self.trainer
        found = ["checkpoint_activations"] if asked.checkpoint_activations else []
        found += ["compile"] if asked.compile and self.task is not self.whole else []
        reason = "the networks have no repeated blocks"
        told = [f"trainer.{name} does nothing here: {reason}" for name in found if not blocks(self.task)]
        if asked.graphs and not captures and self.device.type == "cuda":
            why = "fp16, several phases, or an objective that cannot be captured"
            told.append(f"trainer.graphs does nothing here ({why}): steps are launched one operation at a time")
        return told

    def _choose(self, resume: str | int | None) -> tuple[int, Path] | None:
        """The checkpoint to go on from, or None for a fresh start."""
        occupied = self.checkpoints.folder.is_dir() or (self.folder / "metrics.jsonl").exists()
        if resume is None:
            if occupied:
                raise UserError(f"{self.folder} holds a run already: go on with --resume last, or name another --out")
            return None
        if not occupied and not (self.folder / "recipe.yaml").exists():
            raise UserError(f"nothing to resume: {self.folder} is not the folder of a run")
        return self.checkpoints.find(resume)

    def _take_up(self, checkpoint: Path) -> list[str]:
        """Put the checkpoint back; returns what differs from the run that wrote it, a sentence each."""
        team_state.check(checkpoint, self.team)
        if self.team is not None:
            saved = team_state.read(checkpoint, self.team)
        else:
            saved = run_state.read(
                checkpoint, task=self.task, named=self.named, ema=self.ema, turns=self.turns.turns,
                rank=self.accelerator.process_index, device=self.device, sharded=self.sharded is not None,
            )  # fmt: skip
        self.step, self.seconds, self.results = saved["step"], saved["seconds"], dict(saved["results"])
        self.loader.restore(saved["position"], seen=self.step * saved["position"]["global_batch"])
        self.window = Window(saved["window"])
        if self.accelerator.scaler is not None and saved["scaler"]:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        now = self.conditions()
        differences = [
            f"{name} was {before}, is {now.get(name)}"
            for name, before in saved["conditions"].items()
            if now.get(name) != before
        ]
        return [f"going on from step {self.step}"] + [
            f"changed: {text} (a run of one piece may come out otherwise)" for text in differences
        ]

    def conditions(self) -> dict[str, Any]:
        """What must stay equal for a resumed run to equal an undisturbed one."""
        trainer = self.trainer
        return {
            "seed": self.seed, "processes": self.accelerator.num_processes, "batch": trainer.batch,
            "accumulate": trainer.accumulate, "bucket": trainer.bucket, "steps": trainer.steps, "lr": trainer.lr,
            "schedule": trainer.schedule, "precision": trainer.precision, "ema": trainer.ema,
            "parallel": trainer.parallel,
            "training samples": len(self.samples["train"]), "device": summary.device_name(self.device),
            **self.samples["train"].about(),
            **({} if self.teacher is None else {"teacher": self.teacher.digest}),
            **({} if self.team is None else {"topology": self.team.describe()}),
        }  # fmt: skip

    def _prepare_folder(self) -> None:
        self.accelerator.wait_for_everyone()
        if self.main and not self.dry_run:
            self.checkpoints.clean()
            self.checkpoints.abandon_after(self.step)
            atomic.write_text(self.folder / "recipe.yaml", self.recipe_text)
        self.accelerator.wait_for_everyone()
        if not self.dry_run:
            self.best = self.checkpoints.best()

    # The training

    def advance(self, share: Share, gone: float) -> None:
        """One optimiser step, and what follows it; ``gone``: the share of the training's time."""
        if self.team is not None:
            self.team.step(self.step, share, self.window, gone)
            return
        self.turns.step(self.step, share, self.window, gone)
        if self.ema is not None:
            self.ema.update()
        self.task.after_step(self.step)

    @contextmanager
    def judged(self) -> Iterator[Task]:
        """The whole task with the averaged weights, on every process, to evaluate, show or save; all must ask."""
        averaged = self.ema.swapped() if self.ema is not None else nullcontext()
        if self.team is not None:
            averaged = self.team.averaged()
        if self.sharded is None:
            with averaged:
                yield self.task
            return
        with averaged:
            self.sharded.gather()
        self.whole.to(self.device)
        try:
            yield self.whole
        finally:
            if self.device.type != "cpu":
                self.whole.to("cpu")

    def finish(self) -> None:
        """Hand the task back whole, with the averaged weights, ready to use; all processes must ask."""
        if self.team is not None:
            self.team.finish()
        if self.ema is not None:
            self.ema.copy_to_weights()
        if self.sharded is not None:
            self.sharded.gather()
            self.whole.to(self.device)
        self.whole.eval()

    def release(self) -> None:
        """Undo what training did to the task besides teaching it."""
        for parameter in (*self.named.values(), *self.frozen):
            parameter.requires_grad_(True)
        if self.undo is not None:
            self.undo()

    def elapsed(self) -> float:
        """Seconds of training, those before a resume included."""
        return time.monotonic() - self._began

    def begin(self) -> None:
        """Start the clock."""
        self._began = time.monotonic() - self.seconds


def _freeze_all_but(task: Task, phases: Sequence[Phase]) -> list[torch.nn.Parameter]:
    """Freeze what belongs to no phase; returns what was frozen."""
    learning = tuple(prefix for phase in phases for prefix in phase.parameters or ("",))
    frozen = [p for name, p in task.named_parameters() if p.requires_grad and not name.startswith(learning)]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return frozen
