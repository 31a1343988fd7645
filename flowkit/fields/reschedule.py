"""A field trained on one affine path, sampled on another.

Two affine paths A and B with the same coupling visit the same points up to scale: x^A_t = c x^B_tau, where tau has B's
half log-SNR equal to A's at t and c = |(alpha_A, sigma_A)| / |(alpha_B, sigma_B)|. The trained velocity at (x / c, tau)
is turned into the pair (x1, x0) and back into a velocity on A; that equals (c'/c) x + c tau' v_B(x / c, tau) and has no
infinite factor at the ends. Kingma et al. 2021 (arXiv 2107.00630), section 5.1; Karras et al. 2022 (arXiv 2206.00364),
appendix D.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.fields.field import LOG_SIGMA, Evaluation, Field
from flowkit.paths.affine import AffinePath
from flowkit.tensors import like

__all__ = ["Rescheduled", "Transport", "transport"]


class Transport(NamedTuple):
    """Where A at time t lies on B: time tau and scale c, and v_A = of_x x / c + of_v v_B(x / c, tau); all with the
    shape of t.
    """

    tau: Tensor
    scale: Tensor
    of_x: Tensor
    of_v: Tensor


def transport(trained: AffinePath, sampled: AffinePath, t: Float[Tensor, " *b"]) -> Transport:
    """The coefficients that move a velocity of ``trained`` at tau to ``sampled`` at ``t``."""
    tau = trained.time_of(sampled.half_log_snr(t))
    alpha, sigma, d_alpha, d_sigma = sampled.coefficients(t)
    there = trained.coefficients(tau)
    inverse = trained.inversion(tau)
    scale = torch.hypot(alpha, sigma) / torch.hypot(there.alpha, there.sigma)
    # 1 on the trained range. Beyond its data end the noise that is left shrinks with sigma, at the same score.
    lost = there.sigma < torch.finfo(t.dtype).eps
    shrink = torch.where(lost, 1.0, sigma / (scale * there.sigma.masked_fill(lost, 1.0))).clamp_max(1.0)
    of_x = d_alpha * inverse.data_x + d_sigma * shrink * inverse.noise_x
    of_v = d_alpha * inverse.data_v + d_sigma * shrink * inverse.noise_v
    return Transport(tau, scale, of_x, of_v)


class Rescheduled(Field):
    """``field``, trained on its own affine path, as a field on ``to_path``. Start from ``to_path.start(x0)``.

    Exact while the half log-SNR of ``to_path`` stays inside that of the trained path; beyond it the trained field is
    asked at its end.

    Raises:
        UserError: when one of the paths is not affine.
    """

    def __init__(self, field: Field, to_path: AffinePath) -> None:
        if not isinstance(field.path, AffinePath) or not isinstance(to_path, AffinePath):
            name = type(field.path).__name__ if field.path is not None else "none"
            raise UserError(f"only fields on affine paths can change their path, this one has {name}")
        self.field = field
        self.trained = field.path
        self.path = to_path
        self.independent_gaussian = field.independent_gaussian
        self.guided = field.guided

    def __call__(self, x: Float[Tensor, "b *d"], t: Float[Tensor, " b"], cond: Cond | None = None) -> Evaluation:
        tau, scale, of_x, of_v = transport(self.trained, self.path, t)  # pyright: ignore[reportArgumentType]
        there = x / like(scale, x)
        out = self.field(there, tau, cond)
        heads = out.heads
        if LOG_SIGMA in heads:  # given x nothing but v_B is random
            heads = {**heads, LOG_SIGMA: heads[LOG_SIGMA] + of_v.abs().log().to(heads[LOG_SIGMA].dtype)}
        return Evaluation(like(of_x, x) * there + like(of_v, x) * out.v, heads, out.calls)

    def __repr__(self) -> str:
        return f"Rescheduled({self.field!r}, {self.path!r})"
