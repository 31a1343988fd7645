"""One optimiser step: the phases whose turn it is, each with its parameters, optimiser and learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from torch import nn

from flowkit.errors import UserError
from flowkit.random import Rows, mix_seed
from flowkit.tasks import Phase
from flowkit.train import sharding
from flowkit.train.engine import to_device
from flowkit.train.graphs import StepGraphs
from flowkit.train.loader import Share
from flowkit.train.optimisers import Optimiser
from flowkit.train.schedules import ScheduleName, factor
from flowkit.train.sharding import Sharded
from flowkit.train.window import Window


class Turn:
    """A phase with its optimiser.

    Args:
        phase: what the task declared.
        number: its place among the phases; the first one's draws are those of (seed, step) alone.
        named: all parameters of the task that learn.
        optimiser: settings of the optimiser.
        lr: peak learning rate unless the phase has its own.
        steps: length of the training.
    """

    def __init__(
        self, phase: Phase, number: int, named: Mapping[str, nn.Parameter], *, optimiser: Optimiser,
        lr: float, steps: int,
    ) -> None:  # fmt: skip
        self.phase, self.number = phase, number
        self.named = {name: p for name, p in named.items() if phase.holds(name)}
        if not self.named:
            asked = ", ".join(phase.parameters) or "anything"
            raise UserError(f"phase {phase.name!r}: no parameter that learns has a name beginning with {asked}")
        self.parameters = list(self.named.values())
        self.lr = lr if phase.lr is None else phase.lr
        self.optimiser = optimiser.build(self.parameters, self.lr)
        end = steps if phase.last_step is None else min(phase.last_step + 1, steps)
        self.first, self.end = phase.first_step, max(end, phase.first_step + 1)

    def is_due(self, step: int) -> bool:
        """True when the phase learns at ``step`` (from 0); ``last_step`` belongs to it."""
        return self.first <= step < self.end and step % self.phase.every == 0

    def schedule(self, step: int, name: ScheduleName, warmup: int, floor: float, elapsed: float = 0.0) -> float:
        """Set and return the learning rate; warm-up and decay run over the phase's own steps."""
        lr = self.lr * factor(
            name, step - self.first, steps=self.end - self.first, warmup=warmup, floor=floor, elapsed=elapsed
        )
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        return lr


class Turns:
    """Makes optimiser steps.

    Args:
        accelerator: of the run.
        model: the prepared :class:`LossModule`.
        turns: one for each phase.
        seed: of the training.
        clip: largest norm of a gradient, 0 for none.
        schedule, warmup, floor: see :func:`flowkit.train.schedules.factor`.
        graphs: replays forward and backward where it can (on GPUs, one phase), or None.
        sharded: of a model that is divided among processes, else None.
    """

    def __init__(
        self, accelerator: Any, model: nn.Module, turns: Sequence[Turn], *, seed: int, clip: float,
        schedule: ScheduleName, warmup: int, floor: float, graphs: StepGraphs | None = None,
        sharded: Sharded | None = None,
    ) -> None:  # fmt: skip
        self.sharded = sharded
        self.accelerator, self.model, self.turns, self.seed, self.clip = accelerator, model, turns, seed, clip
        self.graphs = graphs
        self.warmup, self.floor = warmup, floor
        self.schedule: ScheduleName = schedule
        self.lr: dict[str, float] = {}
        self._learning: Turn | None = None

    def due(self, step: int) -> list[Turn]:
        """The turns of ``step``; raises ``UserError`` where no phase learns."""
        due = [turn for turn in self.turns if turn.is_due(step)]
        if not due:
            raise UserError(f"no phase of the task learns at step {step}: shorten trainer.steps or mend the phases")
        return due

    def tag(self, turn: Turn, name: str) -> str:
        """``train/<name>``, with the phase between where there are several."""
        return f"train/{name}" if len(self.turns) == 1 else f"train/{turn.phase.name}/{name}"

    def step(self, step: int, share: Share, window: Window, elapsed: float = 0.0) -> None:
        """One optimiser step of every phase that is due, on one global batch; ``elapsed``: see :func:`factor`."""
        device = self.accelerator.device
        raws = [to_device(part.raw, device) for part in share.parts]
        if self.sharded is not None:
            self.sharded.synchronise()
        for turn in self.due(step):
            self._let_learn(turn)
            self.lr[self.tag(turn, "lr")] = turn.schedule(step, self.schedule, self.warmup, self.floor, elapsed)
            seed = mix_seed(self.seed, step) if turn.number == 0 else mix_seed(self.seed, step, turn.number)
            for number, (part, raw) in enumerate(zip(share.parts, raws, strict=True)):
                last = number + 1 == len(raws)
                if self.graphs is not None:
                    total, terms = self.graphs(part, raw, turn.phase.name, step, seed)
                else:
                    with nullcontext() if last else self.accelerator.no_sync(self.model):
                        rows = Rows(seed, first=part.first, total=part.total)
                        total, terms = self.model(raw, turn.phase.name, step, rows)
                        self.accelerator.backward(total)
                window.add(step, self.tag(turn, "loss"), total)
                for name, value in terms.items():
                    window.add(step, self.tag(turn, name), value)
            if self.graphs is not None:
                self.graphs.reduce()
            self._learn(turn, step, window)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.update()

    def _learn(self, turn: Turn, step: int, window: Window) -> None:
        scaler = self.accelerator.scaler
        if self.sharded is not None:
            self.sharded.average_scalars(turn.parameters)
        if self.clip > 0:
            if scaler is not None:
                scaler.unscale_(turn.optimiser)
            if self.sharded is None:
                norm = self.accelerator.clip_grad_norm_(turn.parameters, self.clip)
            else:
                norm = sharding.clip(turn.parameters, self.clip)
            if scaler is None:
                window.add(step, self.tag(turn, "grad_norm"), norm)
        if scaler is not None:
            scaler.step(turn.optimiser)
        else:
            turn.optimiser.step()
        turn.optimiser.zero_grad(set_to_none=self.graphs is None)

    def _let_learn(self, turn: Turn) -> None:
        """Only the parameters of the turn collect gradients; the others are passed through."""
        if len(self.turns) == 1 or self._learning is turn:
            return
        for other in self.turns:
            for parameter in other.parameters:
                parameter.requires_grad_(False)
        for parameter in turn.parameters:
            parameter.requires_grad_(True)
        self._learning = turn


def learning_parameters(task: nn.Module) -> dict[str, nn.Parameter]:
    """Name in the task -> parameter, of those that are not frozen."""
    return {name: parameter for name, parameter in task.named_parameters() if parameter.requires_grad}
