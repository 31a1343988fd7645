"""Base classes of the integration loop: one step, its size, and what a solve returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flowkit.cond import Cond
from flowkit.fields.field import Evaluation, Field
from flowkit.solvers.interpolation import Polynomial


class Status(IntEnum):
    """How the solve of one sample ended."""

    OK = 0
    MAX_EVALUATIONS = 1
    STEP_TOO_SMALL = 2
    NON_FINITE = 3


class Step(NamedTuple):
    """One attempted step.

    Attributes:
        x: the new state (b, *d).
        error: the local error estimate (b, *d), or None.
        dense: makes the dense output of the step, or None: the loop then takes the cubic Hermite polynomial.
        memory: what the method remembers for the next step: a tree of tensors, batch first, or None.
        last: the evaluation at the new point when the method has it (first same as last), so that the loop need not
            make it again.
        evaluations: those made beyond ``first``.
        calls: network calls of those evaluations, one number or (b,).
    """

    x: Tensor
    error: Tensor | None = None
    dense: Callable[[], Polynomial] | None = None
    memory: Any = None
    last: Evaluation | None = None
    evaluations: int = 0
    calls: int | Tensor = 0


class Solver(ABC):
    """The method of one step. States its order, the evaluations of a step and the order of its error estimate.

    Attributes:
        order: order of the solution.
        evaluations: evaluations of a step on a fixed grid, the first one included.
        error_order: order of the embedded solution, or None when the method does not estimate its error.
    """

    order: int
    evaluations: int
    error_order: int | None = None

    def start(self, t: Float[Tensor, " b"], x: Float[Tensor, "b *d"], first: Evaluation) -> Any:
        """The memory before the first step: None, or a tree of tensors, batch first, whose structure stays the same."""
        return None

    @abstractmethod
    def step(
        self,
        field: Field,
        t0: Float[Tensor, " b"],
        t1: Float[Tensor, " b"],
        x: Float[Tensor, "b *d"],
        first: Evaluation,
        memory: Any,
        cond: Cond | None,
        *,
        size: float | None = None,
        estimate: bool = True,
    ) -> Step:
        """From ``x`` at ``t0`` to ``t1``; t1 < t0 integrates backward.

        Args:
            field: dx/dt; it must be given times in :func:`time_dtype` of the state.
            t0: where the step begins.
            t1: where it should end.
            x: the state at ``t0``.
            first: the field at (x, t0), made by the loop.
            memory: of the last step, or of :meth:`start`.
            cond: the condition for the field.
            size: t1 - t0 where it is one number known on the host (fixed grids), so that no tensor of sizes is needed;
                else None.
            estimate: False when the error, the dense output and ``last`` are of no use to the caller.
        """


class Judgement(NamedTuple):
    """Per sample: was the step accepted (b,); and the controller's memory."""

    accepted: Bool[Tensor, " b"]
    memory: Any


class Beginning(NamedTuple):
    """What a controller starts from: its memory, and the evaluations and network calls it spent to find it."""

    memory: Any = None
    evaluations: int = 0
    calls: int | Tensor = 0


class Controller(ABC):
    """Chooses step sizes per sample: ``propose`` before the step (it may read ``first.heads``), ``judge`` after it.

    Memory is a tree (tuples, lists, dicts) of tensors, batch first, so that the loop can drop finished samples from it.
    Rows are
    independent: a decision may depend on no other sample of the batch.
    """

    #: True when the controller reads ``Step.error``: such a controller refuses solvers that do not estimate it.
    needs_error: bool = False

    def plan(self, span: tuple[float, float]) -> Sequence[float] | None:
        """All times of the solve when they are known beforehand and the same for all samples, both ends included; else
        None.
        """
        return None

    def begin(
        self,
        field: Field,
        t: Float[Tensor, " b"],
        x: Float[Tensor, "b *d"],
        first: Evaluation,
        *,
        end: float,
        solver: Solver,
        cond: Cond | None,
    ) -> Beginning:
        """Called once before the first step; may evaluate the field to find an initial size."""
        return Beginning()

    @abstractmethod
    def propose(
        self, t: Float[Tensor, " b"], x: Float[Tensor, "b *d"], first: Evaluation, *, end: float, memory: Any
    ) -> tuple[Float[Tensor, " b"], Any]:
        """The float64 times (b,) in which the next step should end (the loop cuts them at ``end``), and the memory."""

    @abstractmethod
    def judge(
        self, x: Float[Tensor, "b *d"], size: Float[Tensor, " b"], step: Step, *, padding: Tensor | None, memory: Any
    ) -> Judgement:
        """Accept or reject, per sample, the step from ``x`` of the signed ``size`` t1 - t0 (0 for samples that wait for
        the rest).
        """


def time_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the times a field is given: that of the state, but never below float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


class _OnDemand:
    """A field (b,) of a solution that may be given as one number for all samples or as a function; made a tensor when
    it is first read.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = "_" + name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            raise AttributeError  # so that the field has no default
        value = instance.__dict__[self.name]
        if not isinstance(value, Tensor):
            instance.__dict__[self.name] = value = value() if callable(value) else _of_all(value, instance.x)
        return value

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self.name] = value


def _of_all(value: int | float, x: Tensor) -> Tensor:
    """(b,) of one number: int64, or float64 where it is no integer."""
    dtype = torch.int64 if isinstance(value, int) else torch.float64
    return torch.full(x.shape[:1], value, dtype=dtype, device=x.device)


@dataclass
class Solution:
    """What a solve returns; counts are per sample. Counts and status of a solve on a grid are made when first read.

    Attributes:
        x: the last state (b, *d).
        ts, xs: saved times (n,) and states (n, b, *d) where ``save`` asked for them; NaN where a sample did not get
            there.
        dense: callable t (b,) -> state (b, *d), where asked for.
        evaluations, network_calls, accepted, rejected: int64 (b,).
        status: int64 (b,) of :class:`Status`; ``explain(i)`` is a sentence for people.
        stopped_at: float64 time (b,) reached.
    """

    x: Float[Tensor, "b *d"]
    evaluations: Int[Tensor, " b"] = _OnDemand()  # pyright: ignore[reportAssignmentType]
    network_calls: Int[Tensor, " b"] = _OnDemand()  # pyright: ignore[reportAssignmentType]
    accepted: Int[Tensor, " b"] = _OnDemand()  # pyright: ignore[reportAssignmentType]
    rejected: Int[Tensor, " b"] = _OnDemand()  # pyright: ignore[reportAssignmentType]
    status: Int[Tensor, " b"] = _OnDemand()  # pyright: ignore[reportAssignmentType]
    stopped_at: Float[Tensor, " b"] = _OnDemand()  # pyright: ignore[reportAssignmentType]
    ts: Float[Tensor, " n"] | None = None
    xs: Float[Tensor, "n b *d"] | None = None
    dense: Callable[[Tensor | float], Tensor] | None = None
    log_density: Float[Tensor, " b"] | None = None

    @classmethod
    def on_demand(
        cls,
        x: Float[Tensor, "b *d"],
        *,
        evaluations: int,
        network_calls: int | Int[Tensor, " b"],
        accepted: int,
        rejected: int,
        status: Callable[[], Tensor],
        stopped_at: float,
    ) -> Solution:
        """A solution whose counts, the same for all samples, and whose status are made tensors when first read."""
        solution: Any = cls.__new__(cls)  # without the constructor, which takes tensors
        solution.x = x
        solution.evaluations, solution.network_calls = evaluations, network_calls
        solution.accepted, solution.rejected = accepted, rejected
        solution.status, solution.stopped_at = status, stopped_at
        return solution

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    @property
    def ok(self) -> bool:
        """True when every sample arrived (synchronises with the device)."""
        return bool((self.status == Status.OK).all())

    def explain(self, sample: int) -> str:
        """What happened to one sample, where, and what to change."""
        status, at = Status(int(self.status[sample])), float(self.stopped_at[sample])
        what, advice = {
            Status.OK: ("arrived at", ""),
            Status.MAX_EVALUATIONS: (
                "stopped at",
                ", out of evaluations: raise max_evaluations or loosen the tolerance",
            ),
            Status.STEP_TOO_SMALL: (
                "stopped at",
                ", the step fell below the resolution of time: loosen the tolerance, or use float64",
            ),
            Status.NON_FINITE: (
                "stopped at",
                ", the field is not finite there: check the network, or start away from the end",
            ),
        }[status]
        return f"sample {sample}: {what} t = {at:g}{advice}"
