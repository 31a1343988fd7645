"""Base classes of the integration loop: one step, its size, and what a solve returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from flowkit.cond import Cond
from flowkit.fields.field import Evaluation, Field


class Status(IntEnum):
    """How the solve of one sample ended."""

    OK = 0
    MAX_EVALUATIONS = 1
    STEP_TOO_SMALL = 2
    NON_FINITE = 3


class Step(NamedTuple):
    """One attempted step: the new state, the local error estimate (or None), the dense output and the method's memory.

    ``last`` is the evaluation at the new point when the method has it (first same as last), so the loop need not make it again.
    ``evaluations`` counts those made beyond ``first``; ``calls`` their network calls.
    """

    x: Tensor
    error: Tensor | None
    dense: Callable[[Tensor], Tensor] | None
    memory: Any
    last: Evaluation | None
    evaluations: int
    calls: int | Tensor


class Solver(ABC):
    """The method of one step. States its order, the evaluations of a step and the order of its error estimate."""

    order: int
    evaluations: int
    error_order: int | None = None

    @abstractmethod
    def step(
        self, field: Field, t0: Float[Tensor, " b"], t1: Float[Tensor, " b"], x: Float[Tensor, "b *d"], first: Evaluation,
        memory: Any, cond: Cond | None,
    ) -> Step:
        """From ``x`` at ``t0`` to ``t1``; ``first`` is the field at (x, t0), made by the loop. t1 < t0 integrates backward."""


class Judgement(NamedTuple):
    """Per sample: accepted (b,) and the next step size (b,), positive whatever the direction."""

    accepted: Bool[Tensor, " b"]
    size: Float[Tensor, " b"]
    memory: Any


class Controller(ABC):
    """Chooses step sizes per sample: ``propose`` before the step (it may read ``first.heads``), ``judge`` after it."""

    @abstractmethod
    def propose(
        self, t: Float[Tensor, " b"], x: Float[Tensor, "b *d"], first: Evaluation, *, end: float, memory: Any
    ) -> tuple[Float[Tensor, " b"], Any]:
        """The time (b,) in which the next step should end."""

    @abstractmethod
    def judge(self, x: Tensor, size: Float[Tensor, " b"], step: Step, *, padding: Tensor | None, memory: Any) -> Judgement:
        """Accept or reject the step, per sample, and set the next size."""


@dataclass
class Solution:
    """What a solve returns; counts are per sample.

    Attributes:
        x: the last state (b, *d).
        ts, xs: saved times (n,) and states (n, b, *d) where ``save`` asked for them.
        dense: callable t (b,) -> state (b, *d), where asked for.
        evaluations, network_calls, accepted, rejected: int64 (b,).
        status: int64 (b,) of :class:`Status`; ``explain(i)`` is a sentence for people.
        stopped_at: time (b,) reached.
    """

    x: Float[Tensor, "b *d"]
    evaluations: Int[Tensor, " b"]
    network_calls: Int[Tensor, " b"]
    accepted: Int[Tensor, " b"]
    rejected: Int[Tensor, " b"]
    status: Int[Tensor, " b"]
    stopped_at: Float[Tensor, " b"]
    ts: Float[Tensor, " n"] | None = None
    xs: Float[Tensor, "n b *d"] | None = None
    dense: Callable[[Tensor], Tensor] | None = None
    log_density: Float[Tensor, " b"] | None = None

    @property
    def ok(self) -> bool:
        """True when every sample arrived (synchronises with the device)."""
        return bool((self.status == Status.OK).all())

    def explain(self, sample: int) -> str:
        """What happened to one sample, where, and what to change."""
        status, at = Status(int(self.status[sample])), float(self.stopped_at[sample])
        return {
            Status.OK: f"sample {sample}: arrived at t = {at:g}",
            Status.MAX_EVALUATIONS: f"sample {sample}: stopped at t = {at:g}, out of evaluations: raise max_evaluations or loosen the tolerance",
            Status.STEP_TOO_SMALL: f"sample {sample}: stopped at t = {at:g}, the step fell below the resolution of time: "
            "loosen the tolerance, or use float64",
            Status.NON_FINITE: f"sample {sample}: stopped at t = {at:g}, the field is not finite there: check the network, or start away from the end",
        }[status]
