"""Bits per dimension of a trained task on data of whole numbers (bytes): ``flowkit evaluate RUN --bpd``."""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from flowkit.cond import Cond
from flowkit.data import RawBatch, Samples
from flowkit.errors import UserError
from flowkit.likelihood import log_likelihood
from flowkit.metrics.dequantisers import Dequantiser, Levels, TruncatedNormal, Uniform, code_bound, mass_bits_per_dim
from flowkit.paths.linear import LinearPath
from flowkit.random import Rows, mix_seed
from flowkit.solvers.controllers import Tolerance
from flowkit.tasks import Task

__all__ = ["DEQUANTISERS", "Quantised", "bits_per_dimension"]

#: By the names of the command line.
DEQUANTISERS: dict[str, type[Dequantiser]] = {"truncated": TruncatedNormal, "uniform": Uniform}
#: States of up to so many elements have their exact divergence.
_EXACT = 16
_DRAWS = 0xB175


@runtime_checkable
class Quantised(Protocol):
    """A task whose x1 are whole numbers, scaled. It may state its bins by an attribute ``levels`` of type
    :class:`flowkit.metrics.dequantisers.Levels`; without one they are 256 that fill [-1, 1]."""

    def codes(self, raw: RawBatch) -> tuple[Int[Tensor, "b *d"], Cond]:
        """The numbers of a raw batch, shaped like x1, and their condition."""
        ...


@torch.no_grad()
def bits_per_dimension(
    task: Task,
    samples: Samples,
    *,
    dequantiser: Dequantiser,
    draws: int = 1,
    limit: int | None = None,
    seed: int = 0,
    batch: int = 128,
    tolerance: float = 1e-5,
) -> dict[str, float]:
    """``bpd``, its standard error over samples, evaluations of a solve, samples and failed solves.

    The bound is that of ``draws`` noises for each sample, with the - log K. The divergence is estimated by one
    Rademacher probe for states of more than 16 elements. Row i's noise is a function of (seed, i), however they are
    cut into batches.

    Args:
        task: with codes; evaluated in evaluation mode.
        samples: the split; its first ``limit``.
        dequantiser: from codes to states.
        draws: K.
        limit: at most so many samples, None for all.
        seed: of noise and probes.
        batch: samples solved at once.
        tolerance: absolute and relative, of Dormand and Prince's method.

    Raises:
        UserError: the task's data are no codes, it trains no field, or its field is guided or redraws its condition.
    """
    if not isinstance(task, Quantised):
        raise UserError(
            f"bits per dimension need data of whole numbers, and {type(task).__name__} has none: leave out --bpd"
        )
    if not task.objective.solvable:
        raise UserError(
            f"{type(task.objective).__name__} learns no field that could be solved, hence no likelihood: leave out "
            "--bpd"
        )
    if draws < 1:
        raise UserError(f"--samples {draws}: at least 1 noise a sample")
    n = min(len(samples), len(samples) if limit is None else limit)
    bounds: list[Tensor] = []
    counts: list[Tensor] = []
    elements = 1
    with task.evaluating():
        field = task.objective.field(task.networks)
        path = field.path or LinearPath()
        for first in range(0, n, batch):
            raw = samples.batch(range(first, min(first + batch, n)))
            moved = {k: v.to(task.device) if isinstance(v, Tensor) else v for k, v in raw.items()}
            codes, cond = task.codes(moved)
            elements = codes[0].numel()
            rows = Rows(mix_seed(seed, _DRAWS), first=first, total=n)
            exact: Any = "exact" if elements <= _EXACT else "hutchinson"

            def log_density(x: Tensor, t: float, cond: Cond = cond, rows: Rows = rows, kind: Any = exact) -> Tensor:
                solved = log_likelihood(
                    field, x, cond=cond, source=getattr(task.objective, "source", None), divergence=kind,
                    controller=Tolerance(rtol=tolerance, atol=tolerance), span=(t, 0.0), generator=rows,
                )  # fmt: skip
                counts.append(solved.evaluations.double().cpu())
                assert solved.log_density is not None
                return solved.log_density

            levels = getattr(task, "levels", Levels())
            bound = code_bound(
                log_density, codes.long(), dequantiser, path, samples=draws, generator=rows, levels=levels
            )
            bounds.append(bound.cpu())
    if not bounds:
        raise UserError("bits per dimension: the split is empty")
    bpd = mass_bits_per_dim(torch.cat(bounds), elements)
    arrived = bpd[bpd.isfinite()]
    return {
        "bpd": float(arrived.mean()),
        "bpd_standard_error": float(arrived.std() / math.sqrt(len(arrived))) if len(arrived) > 1 else math.nan,
        "nfe": float(torch.cat(counts).mean()),
        "samples": float(n),
        "failed": float(n - len(arrived)),
    }
