"""Another data set as the law of x0: translation between two sets that have no partners."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from flowkit.cond import Cond
from flowkit.data import DataSource, Samples, Split
from flowkit.errors import UserError, nearest
from flowkit.random import RandomSource, uniform
from flowkit.sources.source import Source

__all__ = ["FromData"]


class FromData(Source):
    """x0 is a sample of ``data``, drawn at random: rectified flow from one set to the other, paired independently.
    Reflow then finds pairs that belong together. Liu et al. 2022, "Flow Straight and Fast" (arXiv 2209.03003).

    There is no noise: a temperature has no meaning, nor have scores and likelihoods.

    Args:
        data: the other data set.
        field: the tensor of its samples that is taken, as it is; of the shape of x1 (as the task sees it).
        split: ``train``, ``validation`` or ``test``.
    """

    capturable = False

    def __init__(self, data: DataSource, field: str = "x", split: Split = "train") -> None:
        self.data, self.field = data, field
        self.split: Split = split
        self._samples: Samples | None = None

    def samples(self) -> Samples:
        """The split; prepared when it is first asked for.

        Raises:
            UserError: it is empty.
        """
        if self._samples is None:
            self.data.prepare()
            self._samples = self.data.split(self.split)
            if not len(self._samples):
                raise UserError(f"the source FromData has no samples: the split {self.split!r} is empty")
        return self._samples

    def draw(
        self, like: Float[Tensor, "b *d"], cond: Cond, generator: RandomSource | None, *, temperature: float = 1.0
    ) -> Float[Tensor, "b *d"]:
        """Samples at random, with repetition.

        Raises:
            UserError: another shape than the data's, no such tensor, or a temperature.
        """
        if temperature != 1.0:
            raise UserError(
                f"the source FromData is data, which no temperature scales: leave it at 1, not {temperature:g}"
            )
        samples, n = self.samples(), like.shape[0]
        u = uniform((n,), generator, device=like.device).double()
        rows = (u * len(samples)).long().clamp_max(len(samples) - 1)
        raw = samples.batch(rows.tolist())
        value = raw.get(self.field)
        if not isinstance(value, Tensor):
            tensors = [name for name, one in raw.items() if isinstance(one, Tensor)]
            raise UserError(f"the source's data have no tensor {self.field!r}: {nearest(self.field, tensors)}")
        if value.shape != like.shape:
            one, other = tuple(value.shape[1:]), tuple(like.shape[1:])
            raise UserError(f"samples of the source have shape {one}, those of the data {other}: they must agree")
        return value.to(device=like.device, dtype=like.dtype)

    def log_prob(self, x0: Float[Tensor, "b *d"], cond: Cond) -> Float[Tensor, " b"]:
        raise UserError("the source FromData has no density, so a log-likelihood cannot be computed from it")

    def __repr__(self) -> str:
        return f"FromData({type(self.data).__name__}, field={self.field!r}, split={self.split!r})"
