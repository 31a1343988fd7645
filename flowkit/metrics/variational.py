"""The variational bound of a diffusion model: prior, reconstruction and the integral between them, in nats.

-log P(codes) <= KL(q(x_0 | x1) || N(0, I)) + E[-log P(codes | x_1)] + 1/2 int E|x0 - x0_hat|^2 d gamma, where gamma =
log(sigma^2 / alpha^2) runs from the end of the path (t = 1) to its start. Kingma et al. 2021, "Variational Diffusion
Models" (arXiv 2107.00630). The integral is what :class:`flowkit.objectives.idode.IDODE` trains.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowkit.metrics.dequantisers import Levels
from flowkit.paths.affine import AffinePath
from flowkit.random import RandomSource, normal_like
from flowkit.tensors import sum_per_sample

__all__ = ["prior_divergence", "reconstruction"]


def prior_divergence(x1: Float[Tensor, "b *d"], path: AffinePath) -> Float[Tensor, " b"]:
    """KL of x_0 given x1 from the standard normal: the sum of (alpha^2 x1^2 + sigma^2 - log sigma^2 - 1) / 2 at t =
    0.
    """
    alpha, sigma, _, _ = path.coefficients(torch.zeros((), dtype=torch.float64))
    square = float(sigma) ** 2
    rest = square - 2.0 * float(sigma.log()) - 1.0
    return 0.5 * sum_per_sample(float(alpha) ** 2 * x1.square() + rest)


def reconstruction(
    codes: Int[Tensor, "b *d"],
    path: AffinePath,
    generator: RandomSource | None = None,
    *,
    levels: Levels = Levels(),  # noqa: B008  (frozen)
) -> Float[Tensor, " b"]:
    """-log P(codes | x_1) for one draw of x_1 given the middles of the bins: the softmax over all bins of -(x_1 /
    alpha - middle)^2 / (2 e^gamma) at t = 1, summed over the elements.
    """
    alpha, sigma, _, _ = path.coefficients(torch.ones((), dtype=torch.float64))
    ratio = float(sigma / alpha)
    centre = levels.centres(codes, torch.float64)
    z = centre + ratio * normal_like(centre, generator)
    # Bins further than 12 deviations weigh nothing: only those around the code are summed.
    width = min(levels.count, 2 + int(12.0 * ratio / levels.half))
    total = torch.full_like(z, -torch.inf)
    for shift in range(-width, width + 1):
        neighbour = codes + shift
        logit = -0.5 * ((z - levels.centres(neighbour, torch.float64)) / ratio).square()
        inside = (neighbour >= 0) & (neighbour < levels.count)
        total = torch.logaddexp(total, logit.where(inside, torch.full_like(logit, -torch.inf)))
    own = -0.5 * ((z - centre) / ratio).square()
    return sum_per_sample(total - own)
