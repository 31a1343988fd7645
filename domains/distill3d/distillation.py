"""One step of distillation: where a teacher would rather see a rendering.

With y = x / alpha and lambda = sigma / alpha a sampling trajectory obeys dy / dlambda = x0_hat; minus the noise e that
begins it, the *clean* image x_c = y - lambda e obeys

    d x_c / d log lambda = x_c - x1_hat(alpha_t x_c + sigma_t e, t):

an image that moves towards its denoised estimate while t rises, always seen through the same noise. So gradient descent
on parameters theta of a rendering x(theta) along

    g = x(theta) - x1_hat(alpha_t x(theta) + sigma_t e, t) = lambda (x0_hat - e)

follows the teacher's sampling, and in all views if e is tied to what they show. With fresh noise and random t the same
expression is score distillation, which collapses to the mean of modes or to the largest one. Yan et al. 2025,
"Consistent Flow Distillation for Text-to-3D Generation" (arXiv 2501.05445); Poole et al. 2022, "DreamFusion"
(arXiv 2209.14988).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.cond import Cond
from flowkit.fields.field import Field
from flowkit.paths.affine import AffinePath
from flowkit.tensors import like


@torch.no_grad()
def distillation_gradient(
    field: Field, path: AffinePath, rendering: Float[Tensor, "b *d"], noise: Float[Tensor, "b *d"],
    t: Float[Tensor, " b"], cond: Cond | None = None,
) -> Float[Tensor, "b *d"]:  # fmt: skip
    """g = x - x1_hat(alpha x + sigma e, t), with guidance where the field has it.

    Args:
        field: of the teacher.
        path: of the field.
        rendering: x.
        noise: e.
        t: in (0, 1).
        cond: of the teacher.
    """
    alpha, sigma, _, _ = path.coefficients(t)
    seen = like(alpha, rendering) * rendering + like(sigma, rendering) * noise
    return rendering - path.data(seen, field(seen, t, Cond() if cond is None else cond).v, t)


def pull(rendering: Float[Tensor, "b *d"], gradient: Float[Tensor, "b *d"]) -> Float[Tensor, " b"]:
    """|x - sg(x - g)|^2 / 2 of each rendering, summed over its elements: its gradient by x is g, and g alone."""
    target = (rendering - gradient).detach()
    return 0.5 * (rendering - target).square().flatten(1).sum(1)
