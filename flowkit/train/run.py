"""One training run: the loop, and what happens around it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from flowkit.data import DataSource
from flowkit.errors import UserError, nearest
from flowkit.solvers.sampler import Sampler
from flowkit.tasks import Task
from flowkit.train import atomic, engine, nonfinite, random_state, run_state, summary
from flowkit.train.checkpoint import Checkpoints
from flowkit.train.ema import EMA
from flowkit.train.evaluation import task_metrics, validation_loss
from flowkit.train.graphs import StepGraphs
from flowkit.train.loader import Loader, Share
from flowkit.train.metrics import Metrics
from flowkit.train.progress import Progress
from flowkit.train.signals import StopSignals
from flowkit.train.turns import Turn, Turns, learning_parameters
from flowkit.train.window import Window

if TYPE_CHECKING:
    from flowkit.train.trainer import Trainer


class Run:
    """A training, from its arguments (those of :meth:`flowkit.train.trainer.Trainer.fit`) to its summary."""

    def __init__(
        self, trainer: Trainer, task: Task, data: DataSource, *, sampler: Sampler, seed: int, folder: Path,
        recipe_text: str, resume: str | int | None, overfit_batch: bool, dry_run: bool,
    ) -> None:  # fmt: skip
        if dry_run:
            trainer = replace(
                trainer, steps=min(trainer.steps, 2), log_every=1, validation_batches=1, compile=False,
                evaluate_every=min(trainer.evaluate_every, 2), sample_every=min(trainer.sample_every, 2),
            )  # fmt: skip
        self.trainer, self.task, self.sampler, self.seed, self.dry_run = trainer, task, sampler, seed, dry_run
        self.folder, self.recipe_text = folder, recipe_text
        phases = list(task.phases())
        self.accelerator = engine.start(
            precision=trainer.precision, device=trainer.device, accumulate=trainer.accumulate,
            several_phases=len(phases) > 1,
        )  # fmt: skip
        self.main, self.device = self.accelerator.is_main_process, self.accelerator.device
        self.checkpoints = Checkpoints(folder, keep=trainer.keep, mode=trainer.mode)
        found = None if dry_run else self._choose(resume)

        with self.accelerator.main_process_first():
            data.prepare()
        self.samples = {"train": data.split("train"), "validation": data.split("validation")}
        if found is None:
            task.adapt(data)
        if self.device.type == "cuda" and trainer.tf32:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        random_state.seed_process(seed, self.accelerator.process_index)
        if trainer.compile:
            for name in task.networks:
                task.networks[name].compile()
        model = self.accelerator.prepare_model(engine.LossModule(task))
        self.named = learning_parameters(task)
        turns = [
            Turn(phase, number, self.named, optimiser=trainer.optimiser, lr=trainer.lr, steps=trainer.steps)
            for number, phase in enumerate(phases)
        ]
        self.turns = Turns(
            self.accelerator, model, turns, seed=seed, clip=trainer.clip, schedule=trainer.schedule,
            warmup=trainer.warmup, floor=trainer.floor, graphs=self._graphs(model, len(phases)),
        )  # fmt: skip
        self.ema = EMA(self.named, trainer.ema) if trainer.ema > 0 else None
        self.loader = Loader(
            self.samples["train"], batch=trainer.batch, seed=seed, rank=self.accelerator.process_index,
            world=self.accelerator.num_processes, accumulate=trainer.accumulate, bucket=trainer.bucket,
            threads=trainer.prefetch, pinned=self.device.type == "cuda", repeat=overfit_batch,
        )  # fmt: skip
        self.window, self.step, self.seconds = Window(), 0, 0.0
        self.results: dict[str, float] = {}
        self.best: tuple[int, float] | None = None
        notes = [] if found is None else self._take_up(found[1])
        self.start = self.step
        self.ending: Literal["signal", "time"] | None = None
        self._prepare_folder()
        writes = self.main and not dry_run
        self.metrics = Metrics(folder if writes else None, start=self.step, tensorboard=trainer.tensorboard)
        limit = trainer.seconds - self.seconds if trainer.seconds > 0 else float("inf")
        self.progress = Progress(trainer.steps, self.step, shown=trainer.progress and self.main, seconds=limit)
        for note in notes:
            self.progress.note(note)

    # Before the loop

    def _graphs(self, model: torch.nn.Module, phases: int) -> StepGraphs | None:
        """CUDA graphs where they were asked for and can be had."""
        fits = self.device.type == "cuda" and self.accelerator.num_processes == 1 and self.accelerator.scaler is None
        if not (self.trainer.graphs and fits and phases == 1 and self.task.objective.capturable):
            return None
        return StepGraphs(self.accelerator, model)

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
        saved = run_state.read(
            checkpoint, task=self.task, named=self.named, ema=self.ema, turns=self.turns.turns,
            rank=self.accelerator.process_index, device=self.device,
        )  # fmt: skip
        self.step, self.seconds, self.results = saved["step"], saved["seconds"], dict(saved["results"])
        self.loader.restore(saved["position"])
        self.window = Window(saved["window"])
        if self.accelerator.scaler is not None and saved["scaler"]:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        now = self._conditions()
        differences = [
            f"{name} was {before}, is {now.get(name)}"
            for name, before in saved["conditions"].items()
            if now.get(name) != before
        ]
        return [f"going on from step {self.step}"] + [f"not the same run: {text}" for text in differences]

    def _conditions(self) -> dict[str, Any]:
        """What must stay equal for a resumed run to equal an undisturbed one."""
        trainer = self.trainer
        return {
            "seed": self.seed, "processes": self.accelerator.num_processes, "batch": trainer.batch,
            "accumulate": trainer.accumulate, "bucket": trainer.bucket, "steps": trainer.steps, "lr": trainer.lr,
            "schedule": trainer.schedule, "precision": trainer.precision, "ema": trainer.ema,
            "training samples": len(self.samples["train"]), "device": summary.device_name(self.device),
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

    # The loop

    def go(self) -> dict[str, Any]:
        """Train to the end, or to the first signal, and return the summary."""
        status, began = "failed", time.monotonic()
        seconds_before = self.seconds
        try:
            with StopSignals() as stop, closing(iter(self.loader)) as shares:
                self._loop(shares, stop, began, seconds_before)
            told = stop.received or "a signal to another process"
            status = f"stopped by {told}" if self.step < self.trainer.steps else "finished"
            if self.ending == "time":
                status = f"finished: trainer.seconds ({self.trainer.seconds:g}) are over"
        except UserError as error:
            status = f"failed: {error}"
            raise
        except OSError as error:
            if not atomic.is_disk_full(error):
                raise
            status = f"failed: the disk of {self.folder} is full: free some space, then go on with --resume last"
            raise UserError(status.removeprefix("failed: ")) from error
        finally:
            self.seconds = seconds_before + time.monotonic() - began
            for parameter in self.named.values():
                parameter.requires_grad_(True)
            self.progress.close()
            # Where training failed for a full disk, the end of its records may fail too: the first error counts.
            with suppress(OSError) if status.startswith("failed") else nullcontext():
                self.metrics.close()
                if self.main and not self.dry_run:
                    atomic.write_json(self.folder / "summary.json", self._summary(status))
        if self.ema is not None:
            self.ema.copy_to_weights()
        self.task.eval()
        return self._summary(status)

    def _loop(self, shares: Iterator[Share], stop: StopSignals, began: float, seconds_before: float) -> None:
        trainer = self.trainer
        clock, waited, steps = time.perf_counter(), 0.0, 0
        self.task.train()
        while self.step < trainer.steps:
            asked = time.perf_counter()
            share = next(shares)
            waited += time.perf_counter() - asked
            gone = seconds_before + time.monotonic() - began
            self.turns.step(self.step, share, self.window, gone / trainer.seconds if trainer.seconds > 0 else 0.0)
            if self.ema is not None:
                self.ema.update()
            self.task.objective.after_step(self.task.networks, self.step)
            self.step += 1
            steps += 1
            ending = self._ending(stop, 0 < trainer.seconds <= seconds_before + time.monotonic() - began)
            last = ending is not None or self.step == trainer.steps
            # The end of the time is looked at like the last step; a signal wants to be gone.
            told = ending == "signal"
            evaluates = not told and self._is_due(trainer.evaluate_every, last)
            presents = not told and self._is_due(trainer.sample_every, last)
            saves = last or (trainer.checkpoint_every > 0 and self.step % trainer.checkpoint_every == 0)
            if self.step % trainer.log_every == 0 or last:
                self._check()
                self._log(steps, time.perf_counter() - clock, waited, last=last)
                clock, waited, steps = time.perf_counter(), 0.0, 0
            if not (evaluates or presents or saves):
                continue
            paused = time.perf_counter()
            self._check()
            self.seconds = seconds_before + time.monotonic() - began
            score = self._evaluate() if evaluates else None
            if presents:
                self._present()
            if saves or self._improves(score):
                self._save(score)
            clock += time.perf_counter() - paused
            if ending is not None:
                self.ending = ending
                return

    def _is_due(self, every: int, last: bool) -> bool:
        return every > 0 and (self.step % every == 0 or last)

    def _ending(self, stop: StopSignals, out_of_time: bool) -> Literal["signal", "time"] | None:
        """Whether a process was told to stop or ran out of time. All must stop at the same step, and asking each
        other costs time."""
        wishes = [stop.received is not None, out_of_time]
        if self.accelerator.num_processes > 1:
            if self.step % min(self.trainer.log_every, 20) != 0:
                return None
            asked = torch.tensor(wishes, dtype=torch.float32, device=self.device)
            wishes = (torch.as_tensor(self.accelerator.reduce(asked, reduction="sum")) > 0).tolist()
        return "signal" if wishes[0] else "time" if wishes[1] else None

    def _check(self) -> None:
        """Fetch the losses; where one is not finite, write its batch and stop."""
        broken = self.window.fetch(self.accelerator)
        if not broken:
            return
        step, values = next(iter(broken.items()))
        written = None
        if not self.dry_run:
            # The order is a function of the step: the batch is read once more, exactly.
            share = self.loader.share(*self.loader.locate(self.step - step))
            written = nonfinite.write_batch(self.folder, step + 1, self.accelerator.process_index, share)
        steps = self.checkpoints.steps()
        raise nonfinite.stop(step, values, written, steps[-1] if steps else None)

    def _log(self, steps: int, seconds: float, waited: float, *, last: bool) -> None:
        speed = steps * self.loader.total / max(seconds, 1e-9)
        means = self.window.means()
        times = {"time/step_s": seconds / steps, "time/data_s": waited / steps, "time/samples_per_s": speed}
        self.metrics.record(self.step, {**means, **self.turns.lr, **times})
        self.results |= means
        losses = {name.removeprefix("train/"): v for name, v in means.items() if name.endswith("loss")}
        self.progress.update(self.step, losses, speed, last=last)

    # Now and then

    def _averaged(self) -> AbstractContextManager[None]:
        return self.ema.swapped() if self.ema is not None else nullcontext()

    def _evaluate(self) -> float | None:
        """Judge the averaged weights; returns the score that chooses the best checkpoint."""
        trainer, samples = self.trainer, self.samples["validation"]
        if len(samples) == 0:
            return None
        self.task.eval()
        limit = trainer.validation_batches * trainer.batch or None
        with self._averaged(), random_state.untouched(self.device):
            found = validation_loss(
                self.accelerator, self.task, samples, phase=self.turns.turns[0].phase.name, step=self.step,
                batch=trainer.batch, bucket=trainer.bucket, limit=trainer.validation_batches, seed=self.seed,
                threads=trainer.prefetch,
            )  # fmt: skip
            found |= task_metrics(
                self.accelerator, self.task, samples, sampler=self.sampler, seed=self.seed, limit=limit
            )
        self.task.train()
        if trainer.best not in found:
            raise UserError(f"trainer.best: no metric {trainer.best!r}; {nearest(trainer.best, found)}")
        self.metrics.record(self.step, found)
        self.results |= found
        text = "  ".join(f"{name.removeprefix('eval/')} {value:.4g}" for name, value in found.items())
        self.progress.note(f"step {self.step} evaluation: {text}")
        return found[trainer.best]

    def _improves(self, score: float | None) -> bool:
        if score is None or score != score or self.dry_run:
            return False
        return self.best is None or (score < self.best[1] if self.trainer.mode == "min" else score > self.best[1])

    def _present(self) -> None:
        if not self.main:
            return
        samples = self.samples["validation"] if len(self.samples["validation"]) else self.samples["train"]
        self.task.eval()
        with self._averaged(), random_state.untouched(self.device), torch.no_grad():
            shown = self.task.present(samples, sampler=self.sampler, seed=self.seed)
        self.task.train()
        if self.metrics.folder is None:
            return
        for name, presentation in shown.items():
            if (writer := self.metrics.writer) is not None:
                presentation.to_tensorboard(writer, f"samples/{name}", self.step)
            stem = self.folder / "samples" / f"step{self.step:08d}-{name}"
            stem.parent.mkdir(exist_ok=True)
            presentation.save(stem)

    def _save(self, score: float | None) -> None:
        if self.dry_run:
            return
        from accelerate.utils import broadcast_object_list

        random = run_state.gather_random(self.accelerator)
        scaler = self.accelerator.scaler
        trainer = {
            "step": self.step, "seconds": self.seconds, "position": self.loader.state(),
            "window": self.window.fetched, "results": self.results, "conditions": self._conditions(),
            "ema_updates": 0 if self.ema is None else self.ema.updates,
            "scaler": None if scaler is None else scaler.state_dict(),
        }  # fmt: skip
        trouble: list[str] = [""]
        if self._improves(score) and score is not None:
            self.best = (self.step, score)
        if self.main:
            try:
                self.checkpoints.save(
                    self.step,
                    lambda folder: run_state.write(
                        folder, task=self.task, named=self.named, ema=self.ema, turns=self.turns.turns, random=random,
                        trainer=trainer, recipe_text=self.recipe_text,
                    ),
                    score=score if score == score else None,
                    metric=self.trainer.best,
                )  # fmt: skip
            except UserError as error:
                trouble = [str(error)]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(trouble)
        if trouble[0]:
            raise UserError(trouble[0])

    def _summary(self, status: str) -> dict[str, Any]:
        turns = {turn.phase.name: sum(p.numel() for p in turn.parameters) for turn in self.turns.turns}
        return {
            "status": status,
            "task": type(self.task).__name__,
            "objective": type(self.task.objective).__name__,
            "parameters": turns,
            "steps": self.step,
            "samples_seen": self.step * self.loader.total,
            "epoch": self.loader.epoch,
            "metrics": self.results,
            "best": None if self.best is None else {"step": self.best[0], self.trainer.best: self.best[1]},
            "sampling": summary.sampling(self.sampler),
            "seconds": self.seconds,
            "peak_memory_mb": summary.peak_memory_mb(self.device),
            "device": summary.device_name(self.device),
            "conditions": self._conditions(),
            "versions": summary.versions(),
        }
