"""Task: what a domain gives the trainer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from flowkit.couplings.coupling import Batch
from flowkit.data import DataSource, RawBatch, Samples
from flowkit.errors import UserError
from flowkit.objectives.objective import Loss, Networks, Objective
from flowkit.objectives.phase import Phase
from flowkit.procedures.pair_data import pair_batch
from flowkit.programs import Exportable
from flowkit.random import RandomSource
from flowkit.solvers.sampler import Sampler

__all__ = ["Phase", "Presentation", "Report", "Task"]


@runtime_checkable
class Presentation(Protocol):
    """Something to look at or listen to: knows how to go to TensorBoard and to a file."""

    def to_tensorboard(self, writer: Any, tag: str, step: int) -> None: ...

    def save(self, stem: Path) -> Path:
        """Write beside ``stem`` with the right suffix (atomically) and return the path."""
        ...


@dataclass(frozen=True)
class Report:
    """What ``flowkit evaluate`` tells.

    Args:
        metrics: numbers by name.
        table: rows to print instead of the metrics, their head first.
        details: plain data for JSON: curves, settings.
        notes: what a reader of the numbers must know.
    """

    metrics: Mapping[str, float]
    table: Sequence[Sequence[str]] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


class Task(nn.Module, ABC):
    """A domain's side of training. Its forward IS its loss, so nothing goes round DDP; it never writes its own
    flow-matching loss. A task whose loss is no flow at all (an autoencoder, a fit of one instance) writes ``forward``
    and holds :class:`flowkit.objectives.own_loss.OwnLoss`."""

    objective: Objective
    networks: Networks

    @abstractmethod
    def prepare(self, raw: RawBatch, generator: RandomSource | None = None) -> Batch:
        """Normalise and encode a raw batch (tensors already on the device)."""

    def forward(
        self, raw: RawBatch, *, phase: str = "main", step: int = 0, generator: RandomSource | None = None
    ) -> Loss:
        """The loss of one batch; tasks with losses of their own (durations, priors) extend it."""
        batch = self.prepare(raw, generator)
        return self.objective.loss(self.networks, batch, phase=phase, step=step, generator=generator)

    def after_step(self, step: int) -> None:
        """Called once after each optimiser step; tasks with statistics of their own (a codebook) extend it."""
        self.objective.after_step(self.networks, step)

    def pair_inputs(self, raw: RawBatch, generator: RandomSource | None = None) -> Batch:
        """What a teacher makes pairs of, from a raw batch of real data: x1 gives their shape, the encoded condition and
        the weight are kept with them. Called in evaluation mode and without gradients."""
        return self.prepare(raw, generator)

    def prepare_pairs(self, raw: RawBatch, generator: RandomSource | None = None) -> Batch:
        """The batch of a raw batch of pairs: x0, x1 and the condition that was encoded when they were made."""
        return pair_batch(raw)

    def pair_loss(
        self, raw: RawBatch, *, phase: str = "main", step: int = 0, generator: RandomSource | None = None
    ) -> Loss:
        """The loss of a batch of pairs: the objective's alone. Encoders are frozen then, and extra losses dropped."""
        batch = self.prepare_pairs(raw, generator)
        return self.objective.loss(self.networks, batch, phase=phase, step=step, generator=generator)

    def lesson_loss(
        self, raw: RawBatch, *, phase: str = "main", step: int = 0, generator: RandomSource | None = None
    ) -> Loss:
        """The loss of a batch of data where the objective learns from a teacher: the objective's alone. The networks
        see conditions as the teacher's encoders make them, which are frozen, and extra losses are dropped."""
        fixed = [m for m in self.children() if m is not self.networks and m is not self.objective and m.training]
        for module in fixed:
            module.eval()
        try:
            with torch.no_grad():
                batch = self.prepare(raw, generator)
        finally:
            for module in fixed:
                module.train()
        return self.objective.loss(self.networks, batch, phase=phase, step=step, generator=generator)

    def pair_phases(self) -> Sequence[Phase]:
        """Stages and turns of training on pairs: those of the objective, for the networks alone; what belongs to none
        is frozen."""
        return [replace(phase, parameters=phase.parameters or ("networks.",)) for phase in self.objective.phases()]

    def adapt(self, data: DataSource) -> None:
        """Read statistics and tables from the data, once, before a fresh training (they live in buffers and are
        saved)."""

    def refit(self, data: DataSource) -> None:
        """Take from other data what a fine-tuned model must know of it (names, an environment), and keep what its
        weights were trained with (scales, symbols). Raises ``UserError`` where the data does not fit the model."""

    def phases(self) -> Sequence[Phase]:
        """Stages and turns of training: those of the objective unless the task has its own."""
        return self.objective.phases()

    @abstractmethod
    def evaluate(
        self, samples: Samples, *, sampler: Sampler, seed: int = 0, limit: int | None = None
    ) -> dict[str, float]:
        """Metrics of the validation or test split, besides the loss that the trainer measures itself."""

    def report(
        self,
        samples: Samples,
        *,
        sampler: Sampler,
        seed: int = 0,
        limit: int | None = None,
        request: Mapping[str, Any] | None = None,
    ) -> Report:
        """What ``flowkit evaluate`` tells: :meth:`evaluate`, where a domain has no more to say.

        ``request`` holds what was asked for besides (``samples``, ``metrics``, ...); a :class:`UserError` refuses what
        the domain does not know.
        """
        for key in request or {}:
            raise UserError(f"{type(self).__name__} is measured without {key!r}: leave it out")
        return Report(self.evaluate(samples, sampler=sampler, seed=seed, limit=limit))

    def present(self, samples: Samples, *, sampler: Sampler, seed: int = 0) -> Mapping[str, Presentation]:
        """A few samples to look at or listen to."""
        return {}

    @abstractmethod
    def sample(
        self, n: int, *, sampler: Sampler, seed: int = 0, request: Mapping[str, Any] | None = None
    ) -> Mapping[str, Presentation]:
        """``flowkit sample``: ``n`` results, perhaps for a request of the user's (a text, a label)."""

    def pipeline(self, sampler: Sampler) -> Any:
        """What users call after training (``flowkit.load``): a ``TextToSpeech``, a ``VideoPredictor``, ..."""
        raise NotImplementedError

    def exports(self, sampler: Sampler) -> Exportable:
        """What ``flowkit export`` makes of the trained task, with the solver's steps of ``sampler`` in it.

        Raises:
            UserError: it cannot be exported, or has seen no data.
        """
        raise UserError(f"{type(self).__name__} cannot be exported: it does not say which programs it consists of")

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode inside, the mode that was afterwards."""
        was = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was)

    @property
    def device(self) -> Any:
        """Where the parameters are."""
        tensor: Tensor = next(self.parameters())
        return tensor.device
