"""Distances between two sets of points: the energy distance and the exact Wasserstein-2 distance."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def energy_distance(x: Float[Tensor, "n *d"], y: Float[Tensor, "m *d"], *, chunk: int = 1024) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| between the two empirical measures: 0 where they are equal, never negative.

    Two sets of n points of one law are not at 0 but near 2 E|X - X'| / n: compare with two real sets. Szekely and Rizzo
    2013 (doi 10.1016/j.jspi.2013.03.018).
    """
    a, b = x.flatten(1).double(), y.flatten(1).double()
    return 2.0 * _mean_distance(a, b, chunk) - _mean_distance(a, a, chunk) - _mean_distance(b, b, chunk)


def _mean_distance(a: Tensor, b: Tensor, chunk: int) -> float:
    # Without the matrix-product form of cdist, whose cancellation is the size of the distance itself.
    exact = "donot_use_mm_for_euclid_dist"
    return sum(float(torch.cdist(part, b, compute_mode=exact).sum()) for part in a.split(chunk)) / (
        a.shape[0] * b.shape[0]
    )


def wasserstein2(x: Float[Tensor, "n *d"], y: Float[Tensor, "n *d"]) -> float:
    """The exact 2-Wasserstein distance of two point sets of one size (assignment problem, O(n^3): about 2000 points in
    seconds).
    """
    from scipy.optimize import linear_sum_assignment

    if x.shape[0] != y.shape[0]:
        raise ValueError(f"sets of one size are needed, not of {x.shape[0]} and {y.shape[0]} points")
    cost = (
        torch.cdist(x.flatten(1).double(), y.flatten(1).double(), compute_mode="donot_use_mm_for_euclid_dist")
        .square()
        .cpu()
        .numpy()
    )
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].mean() ** 0.5)
