"""What a trained model is exported as: programs with plain tensors in and out (:meth:`flowkit.tasks.Task.exports`).

A program is a module whose forward takes and gives tensors alone. The solver's steps are part of it, one after the
other, so it holds as many as were asked for; noise is an input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.objective import Networks, Objective
from flowkit.objectives.regression import Regression
from flowkit.random import normal, uniform
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.solver import Controller, Solution

_SOLUTIONS: ContextVar[list[Solution] | None] = ContextVar("solutions", default=None)


@dataclass(frozen=True)
class Axis:
    """A dimension whose size is free.

    Args:
        sizes: the first is traced, the others are verified; each at least ``least`` and divisible by ``multiple``.
        least: smallest size.
        multiple: what sizes must be divisible by.
    """

    sizes: tuple[int, ...] = (2, 1, 5, 3)
    least: int = 1
    multiple: int = 1


@dataclass(frozen=True)
class Port:
    """An input or output.

    Args:
        name: a Python name.
        shape: sizes, or names of axes.
        about: what it is and in which units.
        dtype: of the tensor.
        low, high: of an integer, both included; ``high`` may be the name of an axis, whose size it is then.
    """

    name: str
    shape: tuple[int | str, ...]
    about: str = ""
    dtype: torch.dtype = torch.float32
    low: int = 0
    high: int | str = 1

    def draw(self, sizes: Mapping[str, int], generator: torch.Generator) -> Tensor:
        """Standard normal, or uniform integers, of the shape that ``sizes`` of axes give."""
        shape = tuple(sizes[size] if isinstance(size, str) else size for size in self.shape)
        if self.dtype.is_floating_point:
            return normal(shape, generator, dtype=self.dtype)
        high = sizes[self.high] if isinstance(self.high, str) else self.high
        return (self.low + (uniform(shape, generator) * (high - self.low + 1)).floor()).to(self.dtype)


@dataclass(frozen=True)
class Program:
    """One exported program.

    Args:
        module: in evaluation mode; its forward takes ``inputs`` in their order and gives ``outputs`` (one tensor, or
            a tuple of several).
        inputs, outputs: of the forward.
        axes: free dimensions by name, which the shapes of ``inputs`` mention.
        about: what it does.
    """

    module: nn.Module
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    axes: Mapping[str, Axis] = field(default_factory=lambda: {"batch": Axis()})
    about: str = ""


@dataclass(frozen=True)
class Exportable:
    """What a task exports.

    Args:
        programs: by name, which is the name of the file.
        facts: plain data (JSON) that whoever runs the programs must know: scales, symbols, layouts.
        card: what the export's README says besides: how the programs are run one after the other.
    """

    programs: Mapping[str, Program]
    facts: Mapping[str, Any] = field(default_factory=dict)
    card: str = ""


@dataclass(frozen=True)
class _Planned(Sampler):
    """A sampler whose times are known before anything is traced: a tracer makes symbols of numbers in tensors."""

    known: Controller | None = None

    def stepping(self) -> Controller:
        return self.known or super().stepping()


def planned(sampler: Sampler, span: tuple[float, float] = (0.0, 1.0)) -> Sampler:
    """``sampler`` with its times over ``span`` as constants: what a program must be made with.

    Raises:
        UserError: it chooses its steps while it solves.
    """
    controller = sampler.stepping()
    if controller.plan((0.0, 1.0)) is None:
        raise UserError(
            f"a program of fixed steps cannot choose them as {type(controller).__name__} does: say how many, "
            "with --steps 4"
        )
    controller.plan(span)  # controllers remember their plans
    settings = {item.name: getattr(sampler, item.name) for item in fields(Sampler)}
    return _Planned(**settings, known=controller)


def reads_noise(objective: Objective) -> bool:
    """Whether :func:`generate` reads its noise (a regression answers without)."""
    return not isinstance(objective, Regression)


def generate(
    objective: Objective, networks: Networks, noise: Tensor, cond: Cond, sampler: Sampler, *,
    span: tuple[float, float] = (0.0, 1.0), state: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The sample (b, *d) of a solve whose only draw is ``noise`` (b, *d), standard normal: the body of a program.

    The sampler is one of :func:`planned`. Mean, deviation and temperature of the source are applied here. ``state`` is
    where the solve begins instead, where the span begins elsewhere than at 0.

    Raises:
        UserError: x0 is no normal draw.
    """
    if state is None and reads_noise(objective):
        state = beginning(objective, noise, cond, sampler)
        sampler = replace(sampler, temperature=1.0)
    solution = objective.generate(networks, noise, cond, sampler=sampler, x0=state, span=span)
    seen = _SOLUTIONS.get()
    if seen is not None:
        seen.append(solution)
    return solution.x


@contextmanager
def solutions() -> Iterator[list[Solution]]:
    """The solutions that :func:`generate` makes inside: what a program costs."""
    seen: list[Solution] = []
    token = _SOLUTIONS.set(seen)
    try:
        yield seen
    finally:
        _SOLUTIONS.reset(token)


def beginning(objective: Objective, noise: Tensor, cond: Cond, sampler: Sampler) -> Tensor:
    """The draw x0 (b, *d) that standard normal ``noise`` is turned into.

    Raises:
        UserError: the source is no normal law.
    """
    moments = objective.source.moments(cond) if isinstance(objective, FlowMatching) else None
    if moments is None:
        source = getattr(objective, "source", objective)
        raise UserError(f"{type(source).__name__} begins with no normal draw, so its noise cannot be an input")
    mean, deviation = moments
    return mean + noise * (deviation * sampler.temperature)
