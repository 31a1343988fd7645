"""c-rectified flow: rectified flow whose velocity is made of the gradient of a potential, for one convex cost.

With v = grad c*(grad f) and X_t = t X1 + (1 - t) X0, minimise the matching loss, which Fenchel and Young keep above 0:

    L(f) = int E[ c*(grad f(X_t, t)) - (X1 - X0).grad f(X_t, t) + c(X1 - X0) ] dt.

The pairs of its ends keep the laws and cost E c(Z1 - Z0) = E c(X1 - X0) - S_c(Z) - L(f), S_c(Z) = int E[c(dZ_t/dt) -
c(Z1 - Z0)] dt >= 0: round after round (``flowkit reflow``) the cost falls, and the rotation that plain reflow cannot
remove falls out. Liu 2022, "Rectified Flow: A Marginal Preserving Approach to Optimal Transport" (arXiv 2209.14577).

A fixed point is optimal only where the marginals have full support and the coupling is regular: Hertrich, Chambolle and
Delon 2025 (arXiv 2505.19712) give counterexamples. From Gaussian noise with the independent coupling the first round is
that of plain rectified flow; the constraint shows from the second on.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.couplings.coupling import Batch
from flowkit.errors import UserError
from flowkit.fields.convex_cost import ConvexCost, QuadraticCost
from flowkit.fields.potential import PotentialField
from flowkit.fields.predictions import Velocity
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.objective import Loss, Networks
from flowkit.paths.linear import LinearPath
from flowkit.random import RandomSource

__all__ = ["CRectifiedFlow"]


class CRectifiedFlow(FlowMatching):
    """Rectified flow restricted to gradients, which lowers one convex cost from round to round.

    Args:
        cost: of a displacement: ``QuadraticCost``, ``PowerCost`` or ``QuadraticForm``.
        **flow_matching: see :class:`FlowMatching`; the path is ``LinearPath`` without a floor.

    Raises:
        UserError: another path, prediction, error or reduction.
    """

    differentiates = True

    def __init__(self, *, cost: ConvexCost = QuadraticCost(), **flow_matching: Any) -> None:  # noqa: B008  (stateless)
        super().__init__(**flow_matching)
        if type(self.path) is not LinearPath or self.path.floor:
            raise UserError(f"CRectifiedFlow lives on straight lines, path: LinearPath with floor 0, not {self.path!r}")
        if type(self.prediction) is not Velocity or self.error != "output" or self.reduce != "mean":
            raise UserError("CRectifiedFlow trains a potential: leave prediction, error and reduce as they are")
        self.cost = cost

    @property
    def capturable(self) -> bool:
        """Its loss differentiates inside."""
        return False

    def loss(
        self,
        networks: Networks,
        batch: Batch,
        *,
        phase: str = "main",
        step: int = 0,
        generator: RandomSource | None = None,
    ) -> Loss:
        """The matching loss, over the kept elements of a sample and divided by their number; called ``flow``. For the
        quadratic cost it is half of flow matching's."""
        batch, point, weight, terms = self.draw(batch, generator, networks)
        xt, shift, keep = batch.cond.real(point.xt), point.vt, batch.loss_mask
        needed = torch.is_grad_enabled()
        gradient = self.field(networks).gradient(xt, point.t, batch.cond)
        if not needed:
            gradient = gradient.detach()
        if keep is not None:
            gradient, shift = (a.where(keep, a.new_zeros(())) for a in (gradient, shift))
        error = self.cost.gap(gradient, shift) / _size(shift, keep)
        if networks.main.training:
            self.times.record(point.t, error.detach())
        if batch.weight is not None:
            weight = weight * batch.weight
        return self.total({"flow": weight.to(error) * error, **terms})

    def field(self, networks: Networks) -> PotentialField:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The velocity of the trained potential."""
        return PotentialField(networks.main, self.path, self.cost)


def _size(x: Tensor, keep: Tensor | None) -> Float[Tensor, " b"] | int:
    """Kept elements of each sample."""
    if keep is None:
        return max(x[0].numel(), 1) if len(x) else 1
    return keep.expand_as(x).flatten(1).sum(1).clamp_min(1).to(x.dtype)
