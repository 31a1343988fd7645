"""Minibatch optimal transport: the pairing of a batch with the least sum of |x0 - x1|^2.

Two point sets of equal size and weight have an optimal plan that is a permutation (Birkhoff), found exactly by the
assignment problem. The coupling is the optimal one of the *batch*: at size 1 it is the independent coupling, and it
tends to the true plan as the batch grows. Tong et al. 2023 (arXiv 2302.00482), Pooladian et al. 2023 (arXiv
2304.14772).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowkit.couplings.transport import TransportCoupling
from flowkit.random import RandomSource, uniform


class MinibatchOT(TransportCoupling):
    """Exact optimal transport inside a batch; permutes x0 only.

    Args:
        within: see :class:`TransportCoupling`.
        condition_cost: see :class:`TransportCoupling`.
        ignore_condition: see :class:`TransportCoupling`.
        replacement: draw as many pairs from the plan with replacement, as torchcfm does, instead of using every sample
            once: about 37 % of a batch is then left out, and the marginals hold in the mean only. Whole triples (x0,
            x1, cond) move.
    """

    def __init__(
        self,
        *,
        within: str | list[str] | None = None,
        condition_cost: dict[str, float] | None = None,
        ignore_condition: bool = False,
        replacement: bool = False,
    ) -> None:
        super().__init__(within=within, condition_cost=condition_cost, ignore_condition=ignore_condition)
        self.replacement = replacement

    def assign(
        self, cost: Float[Tensor, "n n"], generator: RandomSource | None
    ) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"] | None]:
        """The cheapest permutation of the rows of x0."""
        partner = cheapest_permutation(cost)
        if not self.replacement:
            return partner, None
        n = cost.shape[0]
        chosen = (uniform((n,), generator, device=cost.device) * n).long().clamp_max(n - 1)
        return partner.to(cost.device)[chosen], chosen


def cheapest_permutation(cost: Float[Tensor, "n n"]) -> Int[Tensor, " n"]:
    """For each column the row it is paired with, at the least sum of costs (O(n^3), on the CPU)."""
    from scipy.optimize import linear_sum_assignment

    if cost.shape[0] == 1:
        return torch.zeros(1, dtype=torch.long)
    # Transposed, the rows come back in order 0 .. n - 1, so the second array is indexed by x1.
    return torch.from_numpy(linear_sum_assignment(cost.T.cpu().numpy())[1])
