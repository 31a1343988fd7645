"""Kutta's 3/8 rule, order 4 (Kutta 1901): a smaller error constant than the classical method's at the same cost."""

from __future__ import annotations

from flowkit.solvers.runge_kutta import RungeKutta


class RK4ThreeEighths(RungeKutta):
    """The 3/8 rule: order 4, four evaluations a step."""

    order = 4
    nodes = (0.0, 1 / 3, 2 / 3, 1.0)
    rows = ((1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0))
    weights = (1 / 8, 3 / 8, 3 / 8, 1 / 8)
