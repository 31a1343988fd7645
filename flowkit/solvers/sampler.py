"""A sampler: solver, grid or controller, guidance and temperature in one object, as a recipe's ``sampler:`` line names
it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flowkit.fields.guidance import Guidance
from flowkit.solvers.controllers import FixedSteps
from flowkit.solvers.euler import Euler
from flowkit.solvers.solver import Controller, Solver
from flowkit.times.grids import UniformGrid
from flowkit.times.law import TimeGrid


@dataclass(frozen=True)
class Sampler:
    """How to sample.

    Args:
        solver: the method of one step.
        steps: steps of the grid; a controller overrides it.
        grid: where the steps lie.
        controller: chooses the steps per sample instead of the grid (adaptive solving), or None.
        guidance: how two evaluations become one (classifier-free guidance), or None.
        temperature: scale of the source's deviation.
        max_evaluations: budget of a solve, per sample.
    """

    solver: Solver = field(default_factory=Euler)
    steps: int = 10
    grid: TimeGrid = field(default_factory=UniformGrid)
    controller: Controller | None = None
    guidance: Guidance | None = None
    temperature: float = 1.0
    max_evaluations: int = 10_000

    def stepping(self) -> Controller:
        """The controller to hand to :func:`flowkit.solvers.solve.solve`: the one given, or fixed steps on the grid."""
        return FixedSteps(self.steps, self.grid) if self.controller is None else self.controller
