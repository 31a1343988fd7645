"""The trainer that a recipe's ``trainer:`` line configures."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from flowkit.data import DataSource
from flowkit.errors import UserError
from flowkit.objectives.teacher import Teacher
from flowkit.solvers.sampler import Sampler
from flowkit.tasks import Task
from flowkit.train.decentralised.topology import OneModel, Topology
from flowkit.train.engine import Device, Parallel, Precision
from flowkit.train.optimisers import Adam, Optimiser
from flowkit.train.schedules import ScheduleName


@dataclass(frozen=True)
class Trainer:
    """How to train. The same recipe runs on a CPU, one GPU, or many under ``torchrun``.

    Args:
        steps: optimiser steps.
        seconds: end after so many seconds of training, evaluations included, even if steps are left; 0 for no limit.
        batch: samples of a micro-batch on one process; an optimiser step sees batch x processes x accumulate samples.
        lr: peak learning rate.
        optimiser: Adam or AdamW with their settings.
        schedule: the learning rate after the warm-up.
        warmup: steps of linear warm-up.
        floor: share of the learning rate left at the end of cosine and linear decay.
        clip: largest norm of the gradient, 0 for none.
        accumulate: micro-batches of one optimiser step.
        precision: fp32, or autocast to bf16 or fp16.
        device: auto takes a GPU where there is one.
        tf32: let a GPU multiply float32 matrices with TF32 precision.
        cudnn_benchmark: let cuDNN try its convolutions for each new shape and keep the fastest: for convolutions over
            batches of one shape. Two runs may then round differently.
        ema: decay of the averaged weights, which are saved and sampled; 0 for none.
        evaluate_every: steps between evaluations (and one at the end), 0 for none.
        validation_batches: batches of the validation split to use, 0 for all.
        sample_every: steps between presented samples (and once at the end), 0 for none.
        checkpoint_every: steps between checkpoints (and one at the end), 0 for the last only.
        keep: newest checkpoints to keep, 0 for all; the best is kept besides.
        best: the metric that chooses the best checkpoint, such as eval/loss.
        mode: whether a small or a large value of it is good.
        log_every: steps between records of losses and times.
        parallel: what several processes share: ddp keeps all weights on each, fsdp a part of weights, gradients,
            moments and averages on each.
        topology: OneModel, or Gossip for agents without a server that each train a model of their own.
        checkpoint_activations: keep only the inputs of the networks' blocks for the backward pass and compute the rest
            again: less memory, about a third more time.
        compile: compile the task's networks with torch.compile.
        graphs: on GPUs, replay the loss and its gradients as CUDA graphs, one for each shape of a batch; for small
            networks, and with ``bucket``, which keeps the shapes few. Without effect elsewhere.
        bucket: 0, or a multiple to which lengths are padded: batches then hold samples of similar length.
        prefetch: threads that read batches ahead, 0 for none.
        tensorboard: write TensorBoard files.
        progress: show the progress line.
    """

    steps: int = 10_000
    seconds: float = 0.0
    batch: int = 32
    lr: float = 3e-4
    optimiser: Optimiser = field(default_factory=Adam)
    schedule: ScheduleName = "constant"
    warmup: int = 0
    floor: float = 0.0
    clip: float = 1.0
    accumulate: int = 1
    precision: Precision = "fp32"
    device: Device = "auto"
    tf32: bool = True
    cudnn_benchmark: bool = False
    ema: float = 0.999
    evaluate_every: int = 1000
    validation_batches: int = 0
    sample_every: int = 5000
    checkpoint_every: int = 1000
    keep: int = 2
    best: str = "eval/loss"
    mode: Literal["min", "max"] = "min"
    log_every: int = 50
    parallel: Parallel = "ddp"
    topology: Topology = field(default_factory=OneModel)
    checkpoint_activations: bool = False
    compile: bool = False
    graphs: bool = False
    bucket: int = 0
    prefetch: int = 1
    tensorboard: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch": 1, "accumulate": 1, "log_every": 1}
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if isinstance(value, int | float) and not value >= least.get(name, 0):
                raise UserError(f"trainer.{name} is {value}: it must be at least {least.get(name, 0)}")
        if not self.ema < 1:
            raise UserError(f"trainer.ema is {self.ema}: a decay lies below 1 (0.999, or 0 for no average)")
        if self.parallel == "fsdp" and self.precision == "fp16":
            raise UserError("trainer.parallel fsdp knows fp32 and bf16: set trainer.precision bf16")
        for name in ("fsdp", "checkpoint_activations") if self.graphs else ():
            if self.parallel == name or (name == "checkpoint_activations" and self.checkpoint_activations):
                raise UserError(f"trainer.graphs cannot replay steps with {name}: switch one of them off")
        if self.floor > 1:
            raise UserError(f"trainer.floor is {self.floor}: it is a share of the learning rate, from 0 to 1")

    def fit(
        self, task: Task, data: DataSource, *, sampler: Sampler, seed: int, folder: Path | str, recipe_text: str,
        resume: str | int | None = None, overfit_batch: bool = False, dry_run: bool = False,
        warm_start: bool = False, teacher: Teacher | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Train ``task`` on ``data`` and return what ``summary.json`` holds; the task ends with the averaged weights.

        Args:
            task: what is trained; its networks are built.
            data: is prepared, then read.
            sampler: for metrics and presented samples.
            seed: of everything: order, draws, dropout.
            folder: of the run: recipe, metrics, checkpoints, samples.
            recipe_text: the resolved recipe, saved with the run and every checkpoint.
            resume: ``"last"``, ``"best"`` or a step: go on in ``folder`` from there.
            overfit_batch: always the same batch; the loss must fall to the noise of the objective.
            dry_run: two steps, one evaluation, one presentation; nothing is written.
            warm_start: the task holds weights and statistics already, of a teacher or of the model that is fine-tuned:
                it does not adapt to the data, but refits to it.
            teacher: what the objective learns from, where it does; the task's networks alone are then trained.

        Raises:
            UserError: bad settings, an occupied folder, nothing to resume, a full disk.
            NonFiniteLoss: a loss or gradient is not finite; the batch lies in the folder.
        """
        from flowkit.train import engine
        from flowkit.train.loop import train
        from flowkit.train.peers import Peers
        from flowkit.train.run import Run

        state = engine.join(self.device)
        with Peers(state.process_index, state.num_processes):
            run = Run(
                self, task, data, sampler=sampler, seed=seed, folder=Path(folder), recipe_text=recipe_text,
                resume=resume, overfit_batch=overfit_batch, dry_run=dry_run, warm_start=warm_start, teacher=teacher,
            )  # fmt: skip
            return train(run)
