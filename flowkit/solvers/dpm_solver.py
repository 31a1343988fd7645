"""DPM-Solver of order 2 in the data prediction: exact in everything but the change of the data prediction.

With kappa = alpha / sigma, lambda = log kappa and D = E[x1 | x_t], the probability flow is d(x / sigma) = D dkappa. One
step goes to the middle in lambda by the first-order step, asks for D there, and takes the whole step with it:

    x_m = (sigma_m / sigma_0) (x - alpha_0 D_0) + alpha_m D_0,
    x_1 = (sigma_1 / sigma_0) (x - alpha_0 D_m) + alpha_1 D_m.

Lu et al. 2022, "DPM-Solver" (arXiv 2206.00927) and "DPM-Solver++" (arXiv 2211.01095), algorithm 2S with r = 1/2. Where
lambda is infinite: from alpha = 0 the middle is that in time and D is linear in kappa, so the order stays; a step to or
from sigma = 0, or to alpha = 0, is of first order (DDIM), which costs one call less and, done once, no order. So N
steps from 0 to 1 on the linear path take 2 N - 1 evaluations.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.cond import Cond
from flowkit.fields.field import Evaluation, Field
from flowkit.paths.affine import affine
from flowkit.solvers.solver import Solver, Step
from flowkit.tensors import like

__all__ = ["DPMSolver2"]


class DPMSolver2(Solver):
    """DPM-Solver++(2S): order 2, two evaluations a step (one at the data end), on any affine path, both ways in time.

    Args:
        extrapolate: at the data end take a second evaluation, half-way in time, and the data prediction that both point
            at, 2 D_m - D_0, which is of order 2 as well. For few and even steps; without it the last step leaves out
            whatever the prediction averages away.

    Raises:
        UserError: in a solve, a field on no affine path.
    """

    order = 2
    evaluations = 2

    def __init__(self, extrapolate: bool = False) -> None:
        self.extrapolate = extrapolate

    def __repr__(self) -> str:
        return f"DPMSolver2(extrapolate={self.extrapolate})"

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
        path = affine(field.path, "DPMSolver2")
        work = x if x.dtype == torch.float64 else x.float()
        alpha0, sigma0, _, _ = path.coefficients(t0)
        alpha1, sigma1, _, _ = path.coefficients(t1)
        data, noise = path.data(work, first.v.to(work.dtype), t0), path.noise(work, first.v.to(work.dtype), t0)
        plain = like(alpha1, work) * data + like(sigma1, work) * noise
        to_data = (sigma1 == 0) & (alpha0 > 0) & (sigma0 > 0) if self.extrapolate else torch.zeros_like(sigma1 == 0)
        single = ((sigma0 == 0) | (sigma1 == 0) | (alpha1 == 0)) & ~to_data
        if bool(single.all()):
            return Step(plain.to(x.dtype))

        from_noise = alpha0 == 0
        ends = path.half_log_snr(t0), path.half_log_snr(t1)
        middle = path.time_of((0.5 * (ends[0] + ends[1])).nan_to_num(0.0))
        middle = torch.where(single | from_noise | to_data, 0.5 * (t0 + t1), middle)
        alpha_m, sigma_m, _, _ = path.coefficients(middle)
        between = (like(alpha_m, work) * data + like(sigma_m, work) * noise).to(x.dtype)
        second = field(between, middle, cond)
        data_m = path.data(between.to(work.dtype), second.v.to(work.dtype), middle)
        # From pure noise: the integral of a D that is linear in kappa.
        kappa_m, kappa1 = alpha_m / sigma_m, alpha1 / sigma1.where(sigma1 > 0, torch.ones_like(sigma1))
        share = torch.where(from_noise, 0.5 * kappa1 / kappa_m, torch.ones_like(kappa_m))
        share = share.masked_fill(to_data, 2.0)
        mean = data + like(share, work) * (data_m - data)
        ratio = sigma1 / sigma0.where(sigma0 > 0, torch.ones_like(sigma0))
        x1 = like(ratio, work) * (work - like(alpha0, work) * mean) + like(alpha1, work) * mean
        x1 = torch.where(single.reshape(-1, *[1] * (x.ndim - 1)), plain, x1)
        return Step(x1.to(x.dtype), evaluations=1, calls=second.calls)
