"""How gradients go through a solve. Here: directly, through every operation of the loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from flowkit.cond import Cond
from flowkit.fields.field import Evaluation, Field
from flowkit.random import RandomSource
from flowkit.solvers.save import SavePlan
from flowkit.solvers.solver import Controller, Solution, Solver

#: hook(index, t (b,), x, evaluation) -> a state to go on with instead of ``x``, or None. See
#: :func:`flowkit.solvers.solve.solve`.
Hook = Callable[[int, Tensor, Tensor, Evaluation | None], Tensor | None]


@dataclass(slots=True)  # not frozen: that makes its construction three times as slow, at every solve
class Problem:
    """One solve, checked: the arguments of :func:`flowkit.solvers.solve.solve` with the field wrapped and the
    controller chosen.
    """

    field: Field
    x: Tensor
    solver: Solver
    controller: Controller
    span: tuple[float, float]
    cond: Cond | None
    save: SavePlan
    max_evaluations: int
    generator: RandomSource | None
    hooks: Sequence[Hook]


class Sensitivity(ABC):
    """Runs the loop so that the gradients of the solution by the start and the parameters are what it says."""

    @abstractmethod
    def run(self, problem: Problem, integrate: Callable[[Problem], Solution]) -> Solution:
        """The solution. ``integrate`` is the loop; it may be run on parts of the problem (``dataclasses.replace``) or
        on others.
        """


class Direct(Sensitivity):
    """Backpropagation through the loop: exact for the discrete solution; memory grows with the steps. Step sizes carry
    no gradient.
    """

    def run(self, problem: Problem, integrate: Callable[[Problem], Solution]) -> Solution:
        return integrate(problem)
