"""The truncated Chamfer distance of two point clouds, with its gradient."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

#: Rows whose distances are computed at once.
_CHUNK = 2048


@torch.no_grad()
def nearest(a: Float[Tensor, "n 3"], b: Float[Tensor, "m 3"]) -> Tensor:
    """Number of the nearest point of ``b`` for each of ``a``."""
    return torch.cat([torch.cdist(part, b).argmin(1) for part in a.split(_CHUNK)])


def one_way(a: Float[Tensor, "n 3"], b: Float[Tensor, "m 3"], cut: float = 2.0) -> Float[Tensor, ""]:
    """Mean over ``a`` of the *squared* distance to ``b``, 0 where it is ``cut`` (square metres) or more: truncated
    points are averaged in as zeros, not left out. The search gives numbers only; distances carry the gradient."""
    squares = (a - b[nearest(a, b)]).square().sum(1)
    return torch.where(squares < cut, squares, squares.new_zeros(())).mean()


def truncated_chamfer(a: Float[Tensor, "n 3"], b: Float[Tensor, "m 3"], cut: float = 2.0) -> Float[Tensor, ""]:
    """Both ways, added: TC of EulerFlow (arXiv 2410.02031)."""
    return one_way(a, b, cut) + one_way(b, a, cut)
