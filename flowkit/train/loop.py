"""The loop of a training, what it does now and then (logs, evaluations, samples, checkpoints), and how it ends."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from flowkit import atomic
from flowkit.errors import UserError, nearest
from flowkit.tasks import Presentation, Task
from flowkit.train import nonfinite, random_state, run_state, summary
from flowkit.train.decentralised import team_state
from flowkit.train.evaluation import task_metrics, validation_loss
from flowkit.train.loader import Share
from flowkit.train.run import Run
from flowkit.train.signals import StopSignals


class Loop:
    """Steps of ``run`` until its end, the end of its time or a signal.

    Args:
        run: what is trained; its step, results and best score are moved on.
        stop: the signals received.
    """

    def __init__(self, run: Run, stop: StopSignals) -> None:
        self.run, self.stop, self.trainer = run, stop, run.trainer
        self.accelerator, self.task, self.device = run.accelerator, run.task, run.device

    def go(self, shares: Iterator[Share]) -> Literal["signal", "time"] | None:
        """Step on each of ``shares``; returns what ended the loop before its last step, if anything did."""
        run, trainer = self.run, self.trainer
        clock, waited, steps = time.perf_counter(), 0.0, 0
        self.task.train()
        while run.step < trainer.steps:
            asked = time.perf_counter()
            share = next(shares)
            waited += time.perf_counter() - asked
            gone = run.elapsed() / trainer.seconds if trainer.seconds > 0 else 0.0
            run.advance(share, gone)
            run.step += 1
            steps += 1
            ending = self._ending(0 < trainer.seconds <= run.elapsed())
            last = ending is not None or run.step == trainer.steps
            # The end of the time is looked at like the last step; a signal wants to be gone.
            told = ending == "signal"
            evaluates = not told and self._is_due(trainer.evaluate_every, last)
            presents = not told and self._is_due(trainer.sample_every, last)
            saves = last or (trainer.checkpoint_every > 0 and run.step % trainer.checkpoint_every == 0)
            if run.step % trainer.log_every == 0 or last:
                self._check()
                self._log(steps, time.perf_counter() - clock, waited, last=last)
                clock, waited, steps = time.perf_counter(), 0.0, 0
            if not (evaluates or presents or saves):
                continue
            paused = time.perf_counter()
            self._check()
            run.seconds = run.elapsed()
            score = self._evaluate() if evaluates else None
            if presents:
                self._present()
            if saves or self._improves(score):
                self._save(score)
            clock += time.perf_counter() - paused
            if ending is not None:
                return ending
        return None

    def _is_due(self, every: int, last: bool) -> bool:
        return every > 0 and (self.run.step % every == 0 or last)

    def _ending(self, out_of_time: bool) -> Literal["signal", "time"] | None:
        """Whether a process was told to stop or ran out of time. All must stop at the same step, and asking each
        other costs time."""
        wishes = [self.stop.received is not None, out_of_time]
        if self.accelerator.num_processes > 1:
            if self.run.step % min(self.trainer.log_every, 20) != 0:
                return None
            asked = torch.tensor(wishes, dtype=torch.float32, device=self.device)
            wishes = (torch.as_tensor(self.accelerator.reduce(asked, reduction="sum")) > 0).tolist()
        return "signal" if wishes[0] else "time" if wishes[1] else None

    def _check(self) -> None:
        """Fetch the losses; where one is not finite, write its batch and stop."""
        broken = self.run.window.fetch(self.accelerator)
        if not broken:
            return
        step, values = next(iter(broken.items()))
        written = None
        if not self.run.dry_run:
            # The order is a function of the step: the batch is read once more, exactly.
            share = self.run.loader.share(*self.run.loader.locate(self.run.step - step))
            written = nonfinite.write_batch(self.run.folder, step + 1, self.accelerator.process_index, share)
        steps = self.run.checkpoints.steps()
        raise nonfinite.stop(step, values, written, steps[-1] if steps else None)

    def _log(self, steps: int, seconds: float, waited: float, *, last: bool) -> None:
        speed = steps * self.run.loader.total / max(seconds, 1e-9)
        means = self.run.window.means()
        if self.run.team is not None:
            means |= self.run.team.measures()
        times = {"time/step_s": seconds / steps, "time/data_s": waited / steps, "time/samples_per_s": speed}
        self.run.metrics.record(self.run.step, {**means, **self.run.turns.lr, **times})
        self.run.results |= means
        losses = {name.removeprefix("train/"): v for name, v in means.items() if name.endswith(("loss", "consensus"))}
        self.run.progress.update(self.run.step, losses, speed, last=last)

    # Now and then

    @contextmanager
    def _judged(self) -> Iterator[Task]:
        """The averaged task in evaluation mode; what it draws changes nothing for the training."""
        with self.run.judged() as task, random_state.untouched(self.device), task.evaluating():
            yield task

    def _evaluate(self) -> float | None:
        """Judge the averaged weights; returns the score that chooses the best checkpoint."""
        trainer, samples = self.trainer, self.run.samples["validation"]
        if len(samples) == 0:
            return None
        limit = trainer.validation_batches * trainer.batch or None
        judge = partial(
            validation_loss, samples=self.run.samples["loss"], phase=self.run.turns.turns[0].phase.name,
            step=self.run.step, batch=trainer.batch, bucket=trainer.bucket, limit=trainer.validation_batches,
            seed=self.run.seed, threads=trainer.prefetch,
        )  # fmt: skip
        spread = {} if self.run.team is None else self.run.team.spread(judge)
        with self._judged() as task:
            found = judge(self.accelerator, task) | spread
            found |= task_metrics(
                self.accelerator, task, samples, sampler=self.run.sampler, seed=self.run.seed, limit=limit
            )
        if trainer.best not in found:
            raise UserError(f"trainer.best: no metric {trainer.best!r}; {nearest(trainer.best, found)}")
        self.run.metrics.record(self.run.step, found)
        self.run.results |= found
        text = "  ".join(f"{name.removeprefix('eval/')} {value:.4g}" for name, value in found.items())
        self.run.progress.note(f"step {self.run.step} evaluation: {text}")
        return found[trainer.best]

    def _improves(self, score: float | None) -> bool:
        if score is None or score != score or self.run.dry_run:
            return False
        return self.run.best is None or (
            score < self.run.best[1] if self.trainer.mode == "min" else score > self.run.best[1]
        )

    def _present(self) -> None:
        samples = self.run.samples["validation"] if len(self.run.samples["validation"]) else self.run.samples["train"]
        shown: Mapping[str, Presentation] = {}
        with self._judged() as task, torch.no_grad():
            if self.run.main:
                shown = task.present(samples, sampler=self.run.sampler, seed=self.run.seed)
        if self.run.metrics.folder is None:
            return
        for name, presentation in shown.items():
            if (writer := self.run.metrics.writer) is not None:
                presentation.to_tensorboard(writer, f"samples/{name}", self.run.step)
            stem = self.run.folder / "samples" / f"step{self.run.step:08d}-{name}"
            stem.parent.mkdir(exist_ok=True)
            presentation.save(stem)

    def _save(self, score: float | None) -> None:
        if self.run.dry_run:
            return
        run = self.run
        sharded = run.sharded is not None
        parts = sharded or run.team is not None
        random = run_state.gather_random(self.accelerator)
        scaler = self.accelerator.scaler
        trainer = {
            "step": self.run.step, "seconds": self.run.seconds, "position": self.run.loader.state(),
            "window": self.run.window.fetched, "results": self.run.results, "conditions": self.run.conditions(),
            "ema_updates": 0 if self.run.ema is None else self.run.ema.updates,
            "scaler": None if scaler is None else scaler.state_dict(),
        }  # fmt: skip
        if self._improves(score) and score is not None:
            run.best = (run.step, score)

        def fill(folder: Path) -> None:
            if run.team is not None:
                team_state.write(
                    folder, team=run.team, trainer=trainer, recipe_text=run.recipe_text, main=run.main
                )  # fmt: skip
                return
            run_state.write(
                folder, judged=run.judged, named=run.named, averaged=run.ema is not None, turns=run.turns.turns,
                random=random, trainer=trainer, recipe_text=run.recipe_text, together=run.together, sharded=sharded,
            )  # fmt: skip

        # Whole, the state is the first process's to write; the others wait for its word.
        with nullcontext() if parts else run.together.agreed():
            if run.main or parts:
                run.checkpoints.save(
                    run.step, fill, score=score if score == score else None, metric=self.trainer.best,
                    together=run.together if parts else None,
                )  # fmt: skip


def train(run: Run) -> dict[str, Any]:
    """Train to the end, or to the first signal, and return the summary."""
    # To the very end: where another process failed, the launcher's signal must not cut short what is said about it.
    with StopSignals() as stop:
        return _train(run, stop)


def _train(run: Run, stop: StopSignals) -> dict[str, Any]:
    status = "failed"
    run.begin()
    try:
        with closing(iter(run.loader)) as shares:
            ending = Loop(run, stop).go(shares)
        if run.together.count > 1:
            run.peaks = run.together.all(summary.peak_memory_mb(run.device))
        told = stop.received or "a signal to another process"
        status = f"stopped by {told}" if run.step < run.trainer.steps else "finished"
        if ending == "time":
            status = f"finished: trainer.seconds ({run.trainer.seconds:g}) are over"
    except UserError as error:
        status = f"failed: {error}"
        raise
    except OSError as error:
        if not atomic.is_disk_full(error):
            raise
        status = f"failed: the disk of {run.folder} is full: free some space, then go on with --resume last"
        raise UserError(status.removeprefix("failed: ")) from error
    finally:
        run.seconds = run.elapsed()
        run.release()
        run.progress.close()
        # Where training failed for a full disk, the end of its records may fail too: the first error counts.
        with suppress(OSError) if status.startswith("failed") else nullcontext():
            run.metrics.close()
            if run.main and not run.dry_run:
                atomic.write_json(run.folder / "summary.json", summary.report(run, status))
    run.finish()
    return summary.report(run, status)
