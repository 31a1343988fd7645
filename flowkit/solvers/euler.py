"""Euler's method, order 1: x' = x + h v(x, t). On the linear path it is the same as DDIM."""

from __future__ import annotations

from flowkit.solvers.runge_kutta import RungeKutta


class Euler(RungeKutta):
    """Euler's method: order 1, one evaluation a step."""

    order = 1
    nodes = (0.0,)
    rows = ()
    weights = (1.0,)
