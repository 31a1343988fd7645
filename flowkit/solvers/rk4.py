"""The classical Runge-Kutta method, order 4 (Kutta 1901)."""

from __future__ import annotations

from flowkit.solvers.runge_kutta import RungeKutta


class RK4(RungeKutta):
    """The classical method: order 4, four evaluations a step."""

    order = 4
    nodes = (0.0, 1 / 2, 1 / 2, 1.0)
    rows = ((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0))
    weights = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
