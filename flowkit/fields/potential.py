"""A velocity that is made of the gradient of a scalar: v = grad c*(grad_x f).

Any network serves: f(x, t) = <x, net(x, t)>. Its activations must be smooth, for training differentiates twice. The
gradient is taken also where the caller has switched gradients off; v then comes without a graph.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from flowkit.cond import Cond
from flowkit.fields.convex_cost import ConvexCost, QuadraticCost
from flowkit.fields.field import Evaluation, Field
from flowkit.nn.network import Network
from flowkit.paths.path import Path

__all__ = ["PotentialField"]


class PotentialField(Field):
    """The velocity of a potential; one network call forward and one backward an evaluation.

    Args:
        network: takes one state and one time; its head ``v`` is read.
        path: the path it was trained on.
        cost: whose conjugate turns the gradient into the velocity; quadratic: v is the gradient.
    """

    def __init__(self, network: Network, path: Path, cost: ConvexCost | None = None) -> None:
        self.network, self.path = network, path
        self.cost = QuadraticCost() if cost is None else cost

    def gradient(
        self, x: Float[Tensor, "b *d"], t: Float[Tensor, " b"], cond: Cond | None = None
    ) -> Float[Tensor, "b *d"]:
        """grad_x f; with a graph where gradients are on."""
        wanted = torch.is_grad_enabled()
        cond = Cond() if cond is None else cond
        with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            if x.is_inference() or t.is_inference():  # such tensors cannot take part in a graph
                x, t, cond = x.clone(), t.clone(), cond.map(Tensor.clone)
            if not (wanted and x.requires_grad):
                x = x.detach().requires_grad_()
            product = cond.real(x * self.network((x,), (t,), cond)["v"])
            (gradient,) = torch.autograd.grad(product.sum(), x, create_graph=wanted)
        return cond.real(gradient)

    def __call__(self, x: Float[Tensor, "b *d"], t: Float[Tensor, " b"], cond: Cond | None = None) -> Evaluation:
        """The velocity at (x, t)."""
        return Evaluation(self.cost.conjugate_gradient(self.gradient(x, t, cond)))

    def __repr__(self) -> str:
        return f"PotentialField({type(self.network).__name__}, {self.path!r}, {self.cost!r})"
