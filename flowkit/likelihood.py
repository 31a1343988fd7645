"""Exact and estimated log-likelihood of a flow.

Instantaneous change of variables: with dz/dt = v(z, t) and dl/dt = div v(z, t) solved from t = 1 (z = x1, l = 0) to 0,
log p_1(x1) = log p_0(z(0)) + l(0). Chen et al. 2018 (arXiv 1806.07366); the estimate of the divergence by one fixed
probe e, div v ~ e^T (dv/dx) e, is Grathwohl et al. 2018 (arXiv 1810.01367). The probe is drawn once for a solve: drawn
anew at each call the right-hand side would be no function, and adaptive solvers thrash. The likelihood of a guided
field is not that of the model: it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, TypedDict, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.fields.field import Evaluation, Field, FunctionField
from flowkit.paths.affine import AffinePath
from flowkit.random import RandomSource, normal_like, rademacher_like
from flowkit.solvers.controllers import Tolerance
from flowkit.solvers.dormand_prince import DormandPrince
from flowkit.solvers.solve import solve
from flowkit.solvers.solver import Controller, Solution, Solver, Status
from flowkit.sources.gaussian import Gaussian
from flowkit.sources.source import Source
from flowkit.tensors import sum_per_sample

Divergence = Literal["exact", "hutchinson"]
Probe = Literal["rademacher", "normal"]

# Names under which the probe and the padding of the state ride in the condition, so that compaction takes their rows
# too.
_PROBE, _PADDING = "likelihood.probe", "likelihood.padding"


def divergence(
    field: Field,
    x: Float[Tensor, "b *d"],
    t: Float[Tensor, " b"],
    cond: Cond,
    probe: Float[Tensor, "b *d"] | None = None,
) -> tuple[Evaluation, Float[Tensor, " b"]]:
    """The field and its divergence over the unpadded elements, samples of a batch not touching each other.

    Without a ``probe`` exact, by one vector-Jacobian product per element (small states); with one the estimate e^T
    (dv/dx) e.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        out = field(x, t, cond)
        v = cond.real(out.v)
        if not v.requires_grad:  # a field that does not depend on x
            div = v.new_zeros(v.shape[0])
        elif probe is not None:
            (product,) = torch.autograd.grad(v, x, probe)
            div = sum_per_sample(cond.real(product * probe))
        else:
            flat, diagonal = v.flatten(1), []
            for i in range(flat.shape[1]):
                (row,) = torch.autograd.grad(flat[:, i].sum(), x, retain_graph=i + 1 < flat.shape[1])
                diagonal.append(row.flatten(1)[:, i])
            div = sum_per_sample(cond.real(torch.stack(diagonal, 1).reshape(v.shape)))
    return Evaluation(v.detach(), {}, out.calls), div.detach()


class _Augmented(Field):
    """The field on the state (x flattened, scale * l)."""

    def __init__(self, field: Field, shape: torch.Size, scale: float) -> None:
        self.field, self.shape, self.scale = field, shape, scale

    def __call__(self, x: Float[Tensor, "b n"], t: Float[Tensor, " b"], cond: Cond | None = None) -> Evaluation:
        cond = Cond() if cond is None else cond
        values = dict(cond.values)
        probe, padding = values.pop(_PROBE, None), values.pop(_PADDING, None)
        own = replace(cond, values=values, padding=padding)
        out, div = divergence(self.field, x[:, :-1].reshape(-1, *self.shape), t, own, probe)
        return Evaluation(torch.cat([out.v.flatten(1), self.scale * div[:, None]], 1), {}, out.calls)


class Options(TypedDict, total=False):
    """What both functions take by keyword.

    Attributes:
        cond: condition and padding; densities are over the unpadded elements.
        source: the law of x0; None is the standard normal.
        divergence: ``exact`` needs as many vector-Jacobian products as a sample has elements, ``hutchinson`` one and is
            unbiased.
        probe: of Hutchinson's estimate; ``rademacher`` has the smaller variance.
        solver: None is Dormand and Prince's 5(4).
        controller: None holds rtol = atol = 1e-6 per sample.
        density_weight: the error of l weighs this many times that of x as a whole in the error norm: l has the absolute
            tolerance atol / density_weight of its own, however many elements x has.
        max_evaluations: per sample.
        generator: draws the probe, once.
    """

    cond: Cond | None
    source: Source | None
    divergence: Divergence
    probe: Probe
    solver: Solver | None
    controller: Controller | None
    density_weight: float
    max_evaluations: int
    generator: RandomSource | None


def _solve_with_density(
    field: Field | Callable[..., Tensor],
    x: Tensor,
    *,
    at_source: bool,
    span: tuple[float, float],
    cond: Cond | None = None,
    source: Source | None = None,
    divergence: Divergence = "exact",
    probe: Probe = "rademacher",
    solver: Solver | None = None,
    controller: Controller | None = None,
    density_weight: float = 1.0,
    max_evaluations: int = 10_000,
    generator: RandomSource | None = None,
) -> Solution:
    """Solve from ``x`` with the integral of the divergence beside it; the end of the span that is at the source gives
    the prior.
    """
    field = field if isinstance(field, Field) else FunctionField(field)
    cond = Cond() if cond is None else cond
    if field.guided:
        raise UserError("the likelihood of a guided field is not the likelihood of the model: take the guidance off")
    if cond.varies:
        raise UserError(
            "a condition that is redrawn at each call leaves no function to integrate: fix it to have a likelihood"
        )
    if divergence not in ("exact", "hutchinson") or probe not in ("rademacher", "normal"):
        raise UserError(
            f"divergence={divergence!r}, probe={probe!r}: known are exact and hutchinson, rademacher and normal"
        )
    values, padding = dict(cond.values), None
    if cond.padding is not None:
        values[_PADDING] = cond.padding
        real = cond.padding.expand_as(x).flatten(1)
        padding = torch.cat([real, real.new_ones(real.shape[0], 1)], 1)
    if divergence == "hutchinson":
        e = rademacher_like(x, generator) if probe == "rademacher" else normal_like(x, generator)
        values[_PROBE] = cond.real(e)
    elements = x[0].numel() if x.shape[0] else 1
    # Error norms are means over the elements: weighted by their root, l counts as much as all of x together.
    scale = density_weight * math.sqrt(elements)
    state = torch.cat([cond.real(x).flatten(1), x.new_zeros(x.shape[0], 1)], 1)
    with torch.no_grad():
        solution = solve(
            _Augmented(field, x.shape[1:], scale),
            state,
            solver=solver or DormandPrince(),
            controller=controller or Tolerance(rtol=1e-6, atol=1e-6),
            span=span,
            cond=replace(cond, values=values, padding=padding),
            max_evaluations=max_evaluations,
            generator=generator,
        )
    end, change = solution.x[:, :-1].reshape(x.shape), solution.x[:, -1] / scale
    prior = _log_prior(field, source or Gaussian(), x if at_source else end, cond)
    log_density = prior - change if at_source else prior + change
    nan = log_density.new_tensor(math.nan)
    return replace(solution, x=end, log_density=log_density.where(solution.status == Status.OK, nan))


def _log_prior(field: Field, source: Source, z: Tensor, cond: Cond) -> Tensor:
    """Log-density of the state at t = 0, which is sigma_0 x0 on an affine path."""
    sigma = 1.0
    if isinstance(field.path, AffinePath):
        sigma = float(field.path.coefficients(torch.zeros(1, dtype=torch.float64)).sigma)
    if sigma == 1.0:
        return source.log_prob(z, cond)
    return source.log_prob(z / sigma, cond) - math.log(sigma) * sum_per_sample(cond.real(torch.ones_like(z)))


def log_likelihood(
    field: Field | Callable[..., Tensor],
    x1: Float[Tensor, "b *d"],
    *,
    span: tuple[float, float] = (1.0, 0.0),
    **options: Unpack[Options],
) -> Solution:
    """log p_1(x1) in nats by one solve backward in time.

    Args:
        field: the velocity field, or a plain function (x, t) -> v. Its samples must not touch each other.
        x1: the data (b, *d).
        span: from the time of ``x1`` to that of the source.
        options: see :class:`Options`.

    Returns:
        The solution, ``x`` the state at the end of the span and ``log_density`` (b,); nan where a sample did not
        arrive. It carries no gradient.

    Raises:
        UserError: a guided field, or a condition that is redrawn inside the solve.
    """
    return _solve_with_density(field, x1, at_source=False, span=span, **options)


def sample_with_log_density(
    field: Field | Callable[..., Tensor],
    x0: Float[Tensor, "b *d"],
    *,
    span: tuple[float, float] = (0.0, 1.0),
    **options: Unpack[Options],
) -> Solution:
    """Solve forward from the state ``x0`` (``path.start`` of a draw) and give log p_1 of where it ends; options and
    errors as of :func:`log_likelihood`.
    """
    return _solve_with_density(field, x0, at_source=True, span=span, **options)
