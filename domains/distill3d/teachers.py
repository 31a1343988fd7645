"""Who judges a rendering: a flow whose denoised estimates pull the parameters."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from flowkit.errors import UserError
from flowkit.fields.field import Field
from flowkit.paths.affine import AffinePath
from flowkit.paths.linear import LinearPath
from flowkit.testing.mixture import GaussianMixture


class DistilTeacher(ABC):
    """A trained flow, frozen: a velocity field on an affine path, and the shape of what it judges."""

    path: AffinePath
    #: Of one rendering.
    shape: tuple[int, ...]

    @abstractmethod
    def field(self) -> Field:
        """The velocity field; no gradient goes through it."""

    @abstractmethod
    def modes(self) -> tuple[Float[Tensor, "k *d"], Float[Tensor, " k"]]:
        """Known places of the law's modes and their weights, to judge results by."""


class MixtureTeacher(DistilTeacher):
    """Gaussians on a circle in the plane, in closed form: a teacher without an error of its own.

    Args:
        weights: of the Gaussians.
        radius: of the circle.
        deviation: of each Gaussian.
        path: of the flow.
    """

    shape = (2,)

    def __init__(
        self,
        *,
        weights: Sequence[float] = (0.5, 0.3, 0.2),
        radius: float = 2.0,
        deviation: float = 0.25,
        path: AffinePath = LinearPath(),  # noqa: B008  (recipes read the default from this line)
    ) -> None:
        if not weights or min(weights) <= 0 or deviation < 0:
            raise UserError(
                f"MixtureTeacher: weights {list(weights)} must be positive, deviation {deviation} not negative"
            )
        import torch

        angle = torch.arange(len(weights), dtype=torch.float64) * (2 * math.pi / len(weights))
        self.path, self.means = path, radius * torch.stack([angle.cos(), angle.sin()], 1)
        self.weights = torch.tensor(list(weights), dtype=torch.float64) / sum(weights)
        scales = torch.full((len(weights),), float(deviation), dtype=torch.float64)
        self.law = GaussianMixture(self.weights, self.means, scales, path=path)

    def field(self) -> Field:
        """The exact field, in float64."""
        return self.law.field()

    def modes(self) -> tuple[Float[Tensor, "k *d"], Float[Tensor, " k"]]:
        """The means and the weights."""
        return self.means, self.weights
