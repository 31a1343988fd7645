"""Tsitouras' pair 5(4), first same as last, with a free interpolant of order 4.

Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying assumption, Comp. Math. Appl. 62, 2011.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from flowkit.solvers.interpolation import Polynomial
from flowkit.solvers.runge_kutta import RungeKutta


def _expand(scale: float, low: int, *factors: tuple[float, ...]) -> tuple[float, ...]:
    """Coefficients of theta^1 .. theta^4 of scale theta^low times the factors, each given from its constant term up."""
    product = [scale]
    for factor in factors:
        grown = [0.0] * (len(product) + len(factor) - 1)
        for i, a in enumerate(product):
            for j, b in enumerate(factor):
                grown[i + j] += a * b
        product = grown
    return tuple(([0.0] * (low - 1) + product + [0.0] * 4)[:4])


#: x(theta) = x0 + h sum_i b_i(theta) k_i: the polynomials b_i in the paper's factors.
_INTERPOLANT = (
    _expand(-1.0530884977290216, 1, (-1.3299890189751412, 1.0), (0.7139816917074209, -1.4364028541716351, 1.0)),
    _expand(0.1017, 2, (1.2949852507374631, -2.1966568338249754, 1.0)),
    _expand(2.490627285651252793, 2, (1.57803468208092486, -2.38535645472061657, 1.0)),
    _expand(-16.54810288924490272, 2, (-1.21712927295533244, 1.0), (-0.61620406037800089, 1.0)),
    _expand(47.37952196281928122, 2, (-1.203071208372362603, 1.0), (-0.658047292653547382, 1.0)),
    _expand(-34.87065786149660974, 2, (-1.2, 1.0), (-2 / 3, 1.0)),
    _expand(2.5, 2, (-1.0, 1.0), (-0.6, 1.0)),
)


class Tsitouras(RungeKutta):
    """Tsitouras 5(4): order 5, six evaluations a step; usually a little cheaper than Dormand-Prince at equal error."""

    order = 5
    error_order = 4
    nodes = (0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0)
    rows = (
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.897153057105493, -6.359448489975075, 4.362295432869581),
        (5.325864828439257, -11.74888356406283, 7.495539342889836, -0.09249506636175525),
        (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
        (0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774),
    )
    weights = (
        0.09646076681806523,
        0.01,
        0.4798896504144996,
        1.379008574103742,
        -3.290069515436081,
        2.324710524099774,
        0.0,
    )
    embedded = (
        0.09468075576583945,
        0.009183565540343254,
        0.4877705284247616,
        1.234297566930479,
        -2.7077123499835256,
        1.866628418170587,
        1 / 66,
    )

    def dense(self, x0: Tensor, x1: Tensor, slopes: Sequence[Tensor], h: Tensor | float) -> Polynomial:
        def coefficient(power: int) -> Tensor:
            total = None
            for row, k in zip(_INTERPOLANT, slopes, strict=True):
                if row[power]:
                    total = row[power] * k if total is None else total.add(k, alpha=row[power])
            assert total is not None
            return h * total

        return Polynomial((x0, *(coefficient(power) for power in range(4))))
