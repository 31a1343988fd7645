"""How straight the trajectories of a flow are, and how much the lines of a coupling cross.

For trajectories Z with D = Z_1 - Z_0: S(Z) = int_0^1 E|D - v(Z_t, t)|^2 dt, which is 0 exactly where one Euler step is
exact; and for a coupling V(X0, X1) = int_0^1 E|dX_t/dt - v*(X_t, t)|^2 dt. For the linear path E|X1 - X0|^2 - E|Z1 -
Z0|^2 = S(Z) + V(X0, X1). |.|^2 is the sum over the elements of a sample. Liu et al. 2022, "Flow Straight and Fast"
(arXiv 2209.03003), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowkit.cond import Cond
from flowkit.fields.field import Field
from flowkit.paths.affine import AffinePath
from flowkit.paths.path import Path
from flowkit.random import RandomSource, stratified
from flowkit.tensors import like, sum_per_sample


@dataclass(frozen=True)
class Straightness:
    """S and S / E|D|^2 (free of the dimension: the one to report); both in the mean over the batch."""

    total: float
    relative: float
    per_sample: Float[Tensor, " b"]


def _velocities(
    xs: Float[Tensor, "n b *d"], ts: Float[Tensor, " n"], padding: Bool[Tensor, "b ..."] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean velocity of each step (n - 1, b, *d), of the whole (b, *d), and the share in the time of each (n - 1,)."""
    if xs.shape[0] != ts.shape[0] or xs.shape[0] < 2:
        raise ValueError(
            f"{xs.shape[0]} states and {ts.shape[0]} times: one time for each state and two states or more are needed"
        )
    if padding is not None:
        xs = xs.where(padding.expand_as(xs[0]), xs.new_zeros(()))
    span = float(ts[-1] - ts[0])
    steps = (ts[1:] - ts[:-1]).to(xs.dtype)
    return (xs[1:] - xs[:-1]) / like(steps, xs[1:]), (xs[-1] - xs[0]) / span, (steps / span).to(xs.dtype)


def straightness(
    xs: Float[Tensor, "n b *d"], ts: Float[Tensor, " n"], *, padding: Bool[Tensor, "b ..."] | None = None
) -> Straightness:
    """S of saved trajectories from the velocities of their steps, sum_i w_i |u_i - D|^2 with w_i the share of step i in
    the time.

    On the states of an Euler solve u_i is the field itself, and this is the discrete S of the paper. Any grid, any
    span, either direction (the span is mapped to length 1: D is the mean velocity).
    """
    steps, whole, share = _velocities(xs, ts, padding)
    squares = (steps - whole).square().flatten(2).sum(2)
    return _summary((share[:, None] * squares).sum(0), whole)


def straightness_by_energy(
    xs: Float[Tensor, "n b *d"], ts: Float[Tensor, " n"], *, padding: Bool[Tensor, "b ..."] | None = None
) -> Straightness:
    """The same S as sum_i w_i |u_i|^2 - |D|^2: equal to :func:`straightness` by Pythagoras, to round-off."""
    steps, whole, share = _velocities(xs, ts, padding)
    energy = (share[:, None] * steps.square().flatten(2).sum(2)).sum(0)
    return _summary(energy - sum_per_sample(whole.square()), whole)


def direction_straightness(
    xs: Float[Tensor, "n b *d"], ts: Float[Tensor, " n"], *, padding: Bool[Tensor, "b ..."] | None = None
) -> Float[Tensor, " b"]:
    """int |D / |D| - v / |v||^2 dt of each saved trajectory, from 0 to 4: how far its direction strays, whatever its
    speed. 0 on a straight line that is run through at a changing speed, where S is not; a step without motion counts
    as straight. The normalised straightness of Park et al. 2024 (arXiv 2411.00322).
    """
    steps, whole, share = _velocities(xs, ts, padding)
    steps, whole = steps.flatten(2), whole.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(steps, whole.expand_as(steps), dim=2)
    moves = (steps != 0).any(2) & (whole != 0).any(1)
    return (share[:, None] * (2.0 - 2.0 * cosine).clamp_min(0.0).where(moves, cosine.new_zeros(()))).sum(0)


def _summary(per_sample: Tensor, whole: Tensor) -> Straightness:
    total, cost = float(per_sample.mean()), float(sum_per_sample(whole.square()).mean())
    return Straightness(total, total / max(cost, torch.finfo(whole.dtype).tiny), per_sample)


def degree_of_intersection(
    field: Field,
    path: Path,
    x0: Float[Tensor, "b *d"],
    x1: Float[Tensor, "b *d"],
    *,
    cond: Cond | None = None,
    times: int = 1,
    generator: RandomSource | None = None,
) -> Float[Tensor, " b"]:
    """V of the pairs (x0, x1) under ``field``, per sample; its mean over the batch estimates V(X0, X1).

    Args:
        field: the marginal field v*, or a trained one (then V holds the error of its fit as well).
        path: the path between the pairs.
        x0: one end of each pair.
        x1: the other end.
        cond: condition of the field, and padding.
        times: stratified times for each pair; more of them, less noise.
        generator: draws the times.
    """
    cond = Cond() if cond is None else cond
    total = x1.new_zeros(x1.shape[0])
    for _ in range(times):
        t = stratified(x1.shape[0], generator, device=x1.device).to(x1.dtype)
        point = path.at(x0, x1, t)
        gap = point.vt - field(point.xt, t, cond).v
        if cond.padding is not None:
            gap = gap.where(cond.padding.expand_as(gap), gap.new_zeros(()))
        total = total + sum_per_sample(gap.square())
    return total / times


def curvature(
    field: Field,
    path: AffinePath,
    xs: Float[Tensor, "n b *d"],
    ts: Float[Tensor, " n"],
    *,
    cond: Cond | None = None,
    of: Literal["noise", "data"] = "noise",
) -> Float[Tensor, " b"]:
    """Variance of x0_hat(Z_t, t) along each trajectory, summed over elements: 0 exactly where the trajectory is of
    first order. With ``of="data"`` that of x1_hat, which is 0 at the same places.

    x0_hat = (alpha' x - alpha v) / D with the Wronskian D, so the measure does not depend on the schedule that the flow
    was trained with. Wang et al. 2024, "Rectified Diffusion" (arXiv 2410.07303).
    """
    cond = Cond() if cond is None else cond
    ends: list[Tensor] = []
    for x, time in zip(xs, ts, strict=True):
        t = time.to(x.dtype).expand(x.shape[0])
        ends.append((path.noise if of == "noise" else path.data)(x, field(x, t, cond).v, t))
    variance = torch.stack(ends).var(0, unbiased=False)
    if cond.padding is not None:
        variance = variance.where(cond.padding.expand_as(variance), variance.new_zeros(()))
    return sum_per_sample(variance)


def straightness_of_pieces(
    xs: Float[Tensor, "n b *d"],
    ts: Float[Tensor, " n"],
    boundaries: Sequence[float],
    *,
    padding: Bool[Tensor, "b ..."] | None = None,
) -> Straightness:
    """S of piecewise straight flows: sum over the pieces between ``boundaries`` (which must be among ``ts``) of the
    piece's S times its length.
    """
    index = [int((ts - boundary).abs().argmin()) for boundary in boundaries]
    for i, boundary in zip(index, boundaries, strict=True):
        if abs(float(ts[i]) - boundary) > 1e-6:
            raise ValueError(f"no state was saved at the boundary t = {boundary:g}; the nearest is {float(ts[i]):g}")
    total = xs.new_zeros(xs.shape[1])
    for first, last in pairwise(index):
        piece = straightness(xs[first : last + 1], ts[first : last + 1], padding=padding)
        total = total + piece.per_sample * float(ts[last] - ts[first])
    whole = _velocities(xs, ts, padding)[1]
    return _summary(total, whole)
