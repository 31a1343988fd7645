"""What a flow costs and how well it is solved: transport cost, errors between end points, evaluations."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from flowkit.solvers.solver import Solution, Status
from flowkit.tensors import sum_per_sample


def transport_cost(
    x0: Float[Tensor, "b *d"],
    x1: Float[Tensor, "b *d"],
    *,
    power: float = 2.0,
    padding: Bool[Tensor, "b ..."] | None = None,
) -> float:
    """E|x1 - x0|^power with the Euclidean norm of a sample; a rectification lowers it for every convex power."""
    return float(_squared_norm(x1 - x0, padding).pow(power / 2.0).mean())


def truncation_error(
    x: Float[Tensor, "b *d"], reference: Float[Tensor, "b *d"], *, padding: Bool[Tensor, "b ..."] | None = None
) -> float:
    """sqrt(E|x - reference|^2): with an accurate solve of the same field from the same x0 it is the global truncation
    error of a sampler; with an accurate solve of another field, the coupling error."""
    return float(_squared_norm(x - reference, padding).mean().sqrt())


def _squared_norm(x: Tensor, padding: Tensor | None) -> Tensor:
    if padding is not None:
        x = x.where(padding.expand_as(x), x.new_zeros(()))
    return sum_per_sample(x.square())


def count_summary(solution: Solution) -> dict[str, float]:
    """Evaluations of the field, network calls (NFE), steps and failures of a solve: means over the batch, and the
    extremes of NFE.
    """
    calls = solution.network_calls.double()
    return {
        "nfe": float(calls.mean()),
        "nfe_min": float(calls.min()),
        "nfe_max": float(calls.max()),
        "evaluations": float(solution.evaluations.double().mean()),
        "accepted": float(solution.accepted.double().mean()),
        "rejected": float(solution.rejected.double().mean()),
        "failed": float((solution.status != Status.OK).double().mean()),
    }
