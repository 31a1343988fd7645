"""Heun's method, order 2 (the explicit trapezoidal rule): x' = x + h/2 (k1 + k2), k2 = v(x + h k1, t + h)."""

from __future__ import annotations

from flowkit.solvers.runge_kutta import RungeKutta


class Heun(RungeKutta):
    """Heun's method: order 2, two evaluations a step, one of them at its end."""

    order = 2
    nodes = (0.0, 1.0)
    rows = ((1.0,),)
    weights = (1 / 2, 1 / 2)
