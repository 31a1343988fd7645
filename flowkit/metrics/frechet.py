"""The Frechet distance of two sets of features: how far their means and covariances are apart."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def frechet_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m e"]) -> float:
    """|m_x - m_y|^2 + tr(S_x + S_y) - 2 tr((S_x S_y)^(1/2)), squared units of the features, never negative.

    The 2-Wasserstein distance, squared, of the normal laws with the sets' means and covariances (divisor n - 1); FID
    and FVD are this number for features of two networks. Dowson and Landau 1982 (doi 10.1016/0047-259X(82)90077-X);
    Heusel et al. 2017 (arXiv 1706.08500). With A and B the centred sets, the trace is the nuclear norm of
    A B^T / sqrt((n - 1)(m - 1)): no root of a matrix is taken, and sets of fewer than d points are exact as well. In
    float64.

    Two sets of one law are not at 0: the value is biased upwards by about a constant over n. Compare sets of one size,
    with two real sets of that size beside them.

    Args:
        x: n points or more than one, each of d features.
        y: m points of as many features.

    Raises:
        ValueError: fewer than two points in a set, or features of two widths.
    """
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"sets of one width are needed, not of {x.shape[1]} and {y.shape[1]} features")
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a covariance needs at least 2 points, the sets have {len(x)} and {len(y)}")
    x, y = x.double(), y.double()
    gap = x.mean(0) - y.mean(0)
    a, b = _root(x), _root(y)
    # Rows of a and b are as many as the rank at most: the product is small however many points there are.
    shared = torch.linalg.svdvals(a @ b.T).sum()
    value = gap.square().sum() + a.square().sum() + b.square().sum() - 2.0 * shared
    return max(float(value), 0.0)


def _root(x: Float[Tensor, "n d"]) -> Float[Tensor, "r d"]:
    """R with R^T R = the covariance of the points, min(n, d) rows."""
    centred = (x - x.mean(0)) / (len(x) - 1) ** 0.5
    return centred if len(x) <= x.shape[1] else torch.linalg.qr(centred, mode="r").R
