"""What a network predicts, and how it becomes a velocity.

One loss kernel serves every prediction: a squared error of the output equals the squared error of the velocity divided
by :meth:`Prediction.velocity_factor`. With D = alpha' sigma - alpha sigma' and q = alpha^2 + sigma^2,
|dv|^2 = (D/sigma)^2 |dx1|^2 = (D/alpha)^2 |dx0|^2 = (D sigma/alpha)^2 |dscore|^2 = (D/q)^2 |dF|^2, and for the
displacement G = (x0 - x1) / sqrt 2 |dv|^2 = 2 D^2 / (alpha + sigma)^2 |dG|^2.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.errors import UserError
from flowkit.paths.affine import AffinePath
from flowkit.paths.path import Path, Point
from flowkit.tensors import like

__all__ = [
    "DataPrediction",
    "DiffusionVelocity",
    "Displacement",
    "NoisePrediction",
    "Prediction",
    "ScorePrediction",
    "Velocity",
]


class Prediction(ABC):
    """The meaning of a network's output (b, *d)."""

    #: True when the name is only right for a standard normal source and the independent coupling.
    needs_independent_gaussian: bool = False

    @abstractmethod
    def target(self, point: Point, path: Path) -> Float[Tensor, "b *d"]:
        """What the output is regressed on at a point of the conditional path."""

    @abstractmethod
    def to_velocity(
        self, output: Float[Tensor, "b *d"], x: Float[Tensor, "b *d"], t: Float[Tensor, " b"], path: Path
    ) -> Float[Tensor, "b *d"]:
        """The velocity at (x, t); the limits at the ends are those of :class:`flowkit.paths.affine.AffinePath`."""

    @abstractmethod
    def velocity_factor(self, t: Float[Tensor, " b"], path: Path) -> Float[Tensor, " b"]:
        """|dv|^2 / |d output|^2; infinite at an end where the output does not hold the velocity."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _affine(path: Path, prediction: Prediction) -> AffinePath:
    if not isinstance(path, AffinePath):
        raise UserError(f"{prediction!r} needs an affine path, and {type(path).__name__} is none: predict Velocity()")
    return path


class Velocity(Prediction):
    """v itself, on any path: the default."""

    def target(self, point: Point, path: Path) -> Float[Tensor, "b *d"]:
        return point.vt

    def to_velocity(
        self, output: Float[Tensor, "b *d"], x: Float[Tensor, "b *d"], t: Float[Tensor, " b"], path: Path
    ) -> Float[Tensor, "b *d"]:
        return output

    def velocity_factor(self, t: Float[Tensor, " b"], path: Path) -> Float[Tensor, " b"]:
        return torch.ones_like(t)


class DataPrediction(Prediction):
    """x1. Singular at t = 1 on paths that end at the data; there the noise counts as 0."""

    def target(self, point: Point, path: Path) -> Float[Tensor, "b *d"]:
        return point.x1

    def to_velocity(
        self, output: Float[Tensor, "b *d"], x: Float[Tensor, "b *d"], t: Float[Tensor, " b"], path: Path
    ) -> Float[Tensor, "b *d"]:
        return _affine(path, self).velocity_from_data(output, x, t)

    def velocity_factor(self, t: Float[Tensor, " b"], path: Path) -> Float[Tensor, " b"]:
        affine = _affine(path, self)
        return (affine.wronskian(t) / affine.coefficients(t).sigma).square()


class NoisePrediction(Prediction):
    """x0. Singular at t = 0 on paths that start in pure noise; there the data counts as 0."""

    def target(self, point: Point, path: Path) -> Float[Tensor, "b *d"]:
        return point.x0

    def to_velocity(
        self, output: Float[Tensor, "b *d"], x: Float[Tensor, "b *d"], t: Float[Tensor, " b"], path: Path
    ) -> Float[Tensor, "b *d"]:
        return _affine(path, self).velocity_from_noise(output, x, t)

    def velocity_factor(self, t: Float[Tensor, " b"], path: Path) -> Float[Tensor, " b"]:
        affine = _affine(path, self)
        return (affine.wronskian(t) / affine.coefficients(t).alpha).square()


class ScorePrediction(Prediction):
    """-x0 / sigma: the score grad log p_t for a standard normal source and the independent coupling, and only then.

    The target grows without bound where sigma goes to 0: keep the training times away from t = 1, or weight by sigma^2.
    """

    needs_independent_gaussian = True

    def target(self, point: Point, path: Path) -> Float[Tensor, "b *d"]:
        sigma = _affine(path, self).coefficients(point.t).sigma
        return point.x0 / like(-sigma, point.x0)

    def to_velocity(
        self, output: Float[Tensor, "b *d"], x: Float[Tensor, "b *d"], t: Float[Tensor, " b"], path: Path
    ) -> Float[Tensor, "b *d"]:
        return _affine(path, self).velocity_from_score(output, x, t)

    def velocity_factor(self, t: Float[Tensor, " b"], path: Path) -> Float[Tensor, " b"]:
        affine = _affine(path, self)
        alpha, sigma, _, _ = affine.coefficients(t)
        return (affine.wronskian(t) * sigma / alpha).square()


class DiffusionVelocity(Prediction):
    """F = alpha x0 - sigma x1, the "v-prediction" of diffusion models (Salimans and Ho 2022, arXiv 2202.00512)."""

    def target(self, point: Point, path: Path) -> Float[Tensor, "b *d"]:
        alpha, sigma, _, _ = _affine(path, self).coefficients(point.t)
        return like(alpha, point.x0) * point.x0 - like(sigma, point.x1) * point.x1

    def to_velocity(
        self, output: Float[Tensor, "b *d"], x: Float[Tensor, "b *d"], t: Float[Tensor, " b"], path: Path
    ) -> Float[Tensor, "b *d"]:
        return _affine(path, self).velocity_from_diffusion(output, x, t)

    def velocity_factor(self, t: Float[Tensor, " b"], path: Path) -> Float[Tensor, " b"]:
        affine = _affine(path, self)
        alpha, sigma, _, _ = affine.coefficients(t)
        return (affine.wronskian(t) / (alpha.square() + sigma.square())).square()


class Displacement(Prediction):
    """(x0 - x1) / sqrt 2, the output of i-DODE's straight path (Zheng et al. 2023, arXiv 2305.03935): regular at both
    ends, and as large whatever the speed at which the path is run through."""

    def target(self, point: Point, path: Path) -> Float[Tensor, "b *d"]:
        return (point.x0 - point.x1) * 0.5**0.5

    def to_velocity(
        self, output: Float[Tensor, "b *d"], x: Float[Tensor, "b *d"], t: Float[Tensor, " b"], path: Path
    ) -> Float[Tensor, "b *d"]:
        affine = _affine(path, self)
        alpha, sigma, d_alpha, d_sigma = affine.coefficients(t)
        # x1 = (x - sqrt 2 sigma G) / (alpha + sigma) and x0 = (x + sqrt 2 alpha G) / (alpha + sigma).
        over = 1.0 / (alpha + sigma)
        return like((d_alpha + d_sigma) * over, x) * x - like(2.0**0.5 * affine.wronskian(t) * over, x) * output

    def velocity_factor(self, t: Float[Tensor, " b"], path: Path) -> Float[Tensor, " b"]:
        affine = _affine(path, self)
        alpha, sigma, _, _ = affine.coefficients(t)
        return 2.0 * (affine.wronskian(t) / (alpha + sigma)).square()
