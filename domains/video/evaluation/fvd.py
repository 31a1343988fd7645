"""Frechet distances of clips (FVD), with what makes the number readable: N, resamplings, and real beside real."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.errors import UserError
from flowkit.metrics.frechet import frechet_distance
from flowkit.random import mix_seed


@dataclass(frozen=True)
class VideoFrechet:
    """A Frechet distance of features of clips. All distances are between two sets of ``count`` clips.

    Attributes:
        value: mean over the resamplings; below ``real`` means: not to be told from real clips at this N.
        deviation: of the resamplings (0 where all clips were used and nothing could be drawn anew).
        real: real clips against other real clips at the same N, mean over the resamplings: what is reached by bias
            alone.
        count: N.
        resamplings: how often clips were drawn.
    """

    value: float
    deviation: float
    real: float
    count: int
    resamplings: int

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def fvd(
    made: Float[Tensor, "n d"], real: Float[Tensor, "m d"], *, count: int | None = None, resamplings: int = 3,
    seed: int = 0,
) -> VideoFrechet:  # fmt: skip
    """How far the features of made clips are from those of real ones.

    Each resampling draws ``count`` made clips and two sets of ``count`` real ones that have no clip in common: the
    made ones are compared with the first set, and the second with the first. A Frechet distance is biased upwards by
    about a constant over N: compare values of one N only, and with ``real``.

    Args:
        made: features of made clips.
        real: features of real clips, at least twice ``count``. For predictions give clips that were not gone on with:
            the known frames are the same otherwise, and the distance too small.
        count: N; None: as many as there are made clips.
        resamplings: draws.
        seed: of the draws.

    Raises:
        UserError: too few clips for ``count``, or fewer than 2.
    """
    count = len(made) if count is None else count
    if count < 2 or resamplings < 1:
        raise UserError(f"FVD needs N of at least 2 and a resampling or more, not N = {count} and {resamplings}")
    if len(made) < count:
        raise UserError(f"FVD at N = {count} needs as many made clips, there are {len(made)}: lower N or make more")
    if len(real) < 2 * count:
        raise UserError(
            f"FVD at N = {count} needs {2 * count} real clips (half of them for real beside real), there are "
            f"{len(real)}: lower N"
        )
    values, floors = [], []
    for number in range(resamplings):
        generator = torch.Generator().manual_seed(mix_seed(seed, 0xF7D, number))
        order = torch.randperm(len(real), generator=generator)
        first, second = real[order[:count]], real[order[count : 2 * count]]
        drawn = made[torch.randperm(len(made), generator=generator)[:count]]
        values.append(frechet_distance(drawn, first))
        floors.append(frechet_distance(second, first))
    spread = torch.tensor(values, dtype=torch.float64)
    deviation = float(spread.std()) if resamplings > 1 else 0.0
    return VideoFrechet(float(spread.mean()), deviation, sum(floors) / len(floors), count, resamplings)
