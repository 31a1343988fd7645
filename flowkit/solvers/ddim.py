"""DDIM: the exact step of the probability flow when the data prediction stands still.

    x(t1) = alpha(t1) D + sigma(t1) N,        D = E[x1 | x_t0], N = E[x0 | x_t0], both read off the velocity.

It is (sigma1 / sigma0) x + (alpha1 - alpha0 sigma1 / sigma0) D and (alpha1 / alpha0) x + (sigma1 - sigma0 alpha1 /
alpha0) N at once, and this form divides by neither end. On the linear path it is Euler's method. Song et al. 2020,
"Denoising Diffusion Implicit Models" (arXiv 2010.02502), eta = 0: x <- sqrt(ab_p) a_hat + sqrt(1 - ab_p) e_hat.

On :class:`flowkit.paths.diffusion.DiffusionPath` of K levels, M uniform steps from t = 0 visit the indices K - 1, K - 1
- K / M, ...: what diffusion code calls *trailing* time steps (the first is the noisiest level). Its common default,
*leading*, starts M = 1 at the cleanest level, where pure noise makes no sense.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.fields.field import Evaluation, Field
from flowkit.paths.affine import affine
from flowkit.solvers.solver import Solver, Step
from flowkit.tensors import like

__all__ = ["DDIM"]


class DDIM(Solver):
    """DDIM without noise (eta = 0): order 1, one evaluation a step, on any affine path, both ways in time.

    Args:
        clip: hold the data prediction inside [-clip, clip] (1 for actions normalised to [-1, 1]); None leaves it.
        recompute_noise: after clipping take the noise that fits the clipped data, (x - alpha D) / sigma; False keeps
            the network's, as common implementations do.

    Raises:
        UserError: ``clip`` is not positive; in a solve, a field on no affine path.
    """

    order = 1
    evaluations = 1

    def __init__(self, clip: float | None = None, recompute_noise: bool = False) -> None:
        if clip is not None and not 0.0 < clip < math.inf:
            raise UserError(f"DDIM: clip must be positive, or null for none, not {clip}")
        self.clip, self.recompute_noise = clip, recompute_noise

    def __repr__(self) -> str:
        return f"DDIM(clip={self.clip}, recompute_noise={self.recompute_noise})"

    def step(
        self,
        field: Field,
        t0: Float[Tensor, " b"],
        t1: Float[Tensor, " b"],
        x: Float[Tensor, "b *d"],
        first: Evaluation,
        memory: Any,
        cond: Cond | None,
        *,
        size: float | None = None,
        estimate: bool = True,
    ) -> Step:
        path = affine(field.path, "DDIM")
        work = x if x.dtype == torch.float64 else x.float()
        data, noise = path.data(work, first.v.to(work.dtype), t0), path.noise(work, first.v.to(work.dtype), t0)
        if self.clip is not None:
            data = data.clamp(-self.clip, self.clip)
            if self.recompute_noise:
                alpha, sigma, _, _ = path.coefficients(t0)
                alpha, sigma = like(alpha, work), like(sigma, work)
                lost = sigma < torch.finfo(work.dtype).eps  # at the clean end x does not hold the noise
                noise = torch.where(lost, noise, (work - alpha * data) / sigma.masked_fill(lost, 1.0))
        alpha, sigma, _, _ = path.coefficients(t1)
        return Step((like(alpha, work) * data + like(sigma, work) * noise).to(x.dtype))
