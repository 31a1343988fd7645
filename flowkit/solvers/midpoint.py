"""The explicit midpoint rule, order 2 (Runge 1895): x' = x + h v(x + h/2 v(x, t), t + h/2)."""

from __future__ import annotations

from flowkit.solvers.runge_kutta import RungeKutta


class Midpoint(RungeKutta):
    """The midpoint rule: order 2, two evaluations a step, never one at the end of the step."""

    order = 2
    nodes = (0.0, 1 / 2)
    rows = ((1 / 2,),)
    weights = (0.0, 1.0)
