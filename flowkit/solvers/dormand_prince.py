"""Dormand and Prince's pair 5(4), first same as last.

A family of embedded Runge-Kutta formulae, J. Comp. Appl. Math. 6, 1980.

Dense output: the quartic through both ends, both slopes and the state at mid-step, whose weights are Shampine's
(Some practical Runge-Kutta formulas, Math. Comp. 46, 1986).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from flowkit.solvers.interpolation import Polynomial
from flowkit.solvers.runge_kutta import RungeKutta

#: x(1/2) = x0 + h sum_i m_i k_i, of order 4.
_MIDDLE = tuple(
    m / 2
    for m in (
        6025192743 / 30085553152,
        0.0,
        51252292925 / 65400821598,
        -2691868925 / 45128329728,
        187940372067 / 1594534317056,
        -1776094331 / 19743644256,
        11237099 / 235043384,
    )
)


class DormandPrince(RungeKutta):
    """Dormand-Prince 5(4): order 5, six evaluations a step."""

    order = 5
    error_order = 4
    nodes = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
    rows = (
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    )
    weights = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0)
    embedded = (5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)

    def dense(self, x0: Tensor, x1: Tensor, slopes: Sequence[Tensor], h: Tensor | float) -> Polynomial:
        middle = x0 + h * sum(m * k for m, k in zip(_MIDDLE, slopes, strict=True) if m)
        s0, s1 = h * slopes[0], h * slopes[-1]
        return Polynomial(
            (
                x0,
                s0,
                s1 - 4 * s0 - 11 * x0 - 5 * x1 + 16 * middle,
                5 * s0 - 3 * s1 + 18 * x0 + 14 * x1 - 32 * middle,
                2 * (s1 - s0) - 8 * (x0 + x1) + 16 * middle,
            )
        )
