"""Bogacki and Shampine's pair 3(2), first same as last.

A 3(2) pair of Runge-Kutta formulas, Appl. Math. Letters 2, 1989.

At tolerances near 1e-3 it usually needs fewer evaluations than the pairs of order 5. Dense output: cubic Hermite.
"""

from __future__ import annotations

from flowkit.solvers.runge_kutta import RungeKutta


class BogackiShampine(RungeKutta):
    """Bogacki-Shampine 3(2): order 3, three evaluations a step."""

    order = 3
    error_order = 2
    nodes = (0.0, 1 / 2, 3 / 4, 1.0)
    rows = ((1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9))
    weights = (2 / 9, 1 / 3, 4 / 9, 0.0)
    embedded = (7 / 24, 1 / 4, 1 / 3, 1 / 8)
