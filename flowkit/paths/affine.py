"""Affine paths x_t = alpha_t x1 + sigma_t x0: a schedule writes four coefficients and inherits the rest.

Conversions follow from the two linear equations x = alpha x1 + sigma x0 and v = alpha' x1 + sigma' x0 (Wronskian
D = alpha' sigma - alpha sigma' > 0): x1 = (sigma v - sigma' x) / D and x0 = (alpha' x - alpha v) / D divide by neither
alpha nor sigma and are safe at both ends. The ways back go through the pair (x1, x0) and say which limit they take
where one of the two is lost (alpha = 0 or sigma = 0). Lipman et al. 2022 (arXiv 2210.02747), Albergo et al. 2023
(arXiv 2303.08797).

"Data" and "noise" stand for the conditional means E[x1 | x_t] and E[x0 | x_t] when v is a marginal field.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.errors import UserError
from flowkit.paths.path import Path, Point
from flowkit.tensors import like

State = Float[Tensor, "b *d"]
Time = Float[Tensor, " b"]


class Coefficients(NamedTuple):
    """alpha, sigma and their time derivatives, each with the shape of t."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor


class Inversion(NamedTuple):
    """x1 = data_x x + data_v v and x0 = noise_x x + noise_v v, each with the shape of t."""

    data_x: Tensor
    data_v: Tensor
    noise_x: Tensor
    noise_v: Tensor


def _reciprocal(value: Tensor) -> Tensor:
    """1 / value for value >= 0, and 0 where it is 0 to the precision of its dtype: what it multiplies is lost there."""
    return value.masked_fill(value < torch.finfo(value.dtype).eps, torch.inf).reciprocal()


def column(t: Tensor, x: Tensor) -> Tensor:
    """``t`` as (b, 1, ..., 1) in its own dtype: coefficients are computed in the precision of time, then cast."""
    return t.reshape(t.shape[0], *[1] * (x.ndim - 1))


def cast(coefficients: tuple[Tensor, ...], x: Tensor) -> tuple[Tensor, ...]:
    """The coefficients in the dtype of the state."""
    return coefficients if coefficients[0].dtype == x.dtype else tuple(c.to(x.dtype) for c in coefficients)


class AffinePath(Path):
    """x_t = alpha_t x1 + sigma_t x0. A schedule defines :meth:`coefficients` and :meth:`time_of`."""

    @abstractmethod
    def coefficients(self, t: Float[Tensor, " *b"]) -> Coefficients:
        """alpha, sigma, d alpha / dt and d sigma / dt at ``t`` in [0, 1]; closed forms, never differences."""

    @abstractmethod
    def time_of(self, half_log_snr: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        """The inverse of lambda = log(alpha / sigma), held inside [0, 1]; plus and minus infinity are allowed."""

    def half_log_snr(self, t: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        """lambda = log(alpha / sigma), strictly increasing; infinite where alpha or sigma is 0."""
        alpha, sigma, _, _ = self.coefficients(t)
        return alpha.log() - sigma.log()

    def wronskian(self, t: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        """D = alpha' sigma - alpha sigma', positive on (0, 1)."""
        alpha, sigma, d_alpha, d_sigma = self.coefficients(t)
        return d_alpha * sigma - alpha * d_sigma

    def inversion(self, t: Float[Tensor, " *b"]) -> Inversion:
        """The four numbers that turn (x, v) into (x1, x0); overridden where derivatives are infinite."""
        alpha, sigma, d_alpha, d_sigma = self.coefficients(t)
        over = 1.0 / (d_alpha * sigma - alpha * d_sigma)
        return Inversion(-d_sigma * over, sigma * over, d_alpha * over, -alpha * over)

    def at(self, x0: State, x1: State, t: Time, aux: Tensor | None = None) -> Point:
        alpha, sigma, d_alpha, d_sigma = cast(self.coefficients(column(t, x1)), x1)
        xt = torch.addcmul(alpha * x1, sigma, x0)
        return Point(x0, x1, t, xt, torch.addcmul(d_alpha * x1, d_sigma, x0))

    # From the velocity: regular at both ends.

    def data(self, x: State, v: State, t: Time) -> State:
        """x1 from the velocity: (sigma v - sigma' x) / D."""
        of_x, of_v, _, _ = cast(self.inversion(column(t, x)), x)
        return torch.addcmul(of_x * x, of_v, v)

    def noise(self, x: State, v: State, t: Time) -> State:
        """x0 from the velocity: (alpha' x - alpha v) / D."""
        _, _, of_x, of_v = cast(self.inversion(column(t, x)), x)
        return torch.addcmul(of_x * x, of_v, v)

    def score(self, x: State, v: State, t: Time, *, assume_independent_gaussian: bool = False) -> State:
        """grad log p_t(x) = -x0 / sigma, true only for a standard normal x0 independent of x1.

        Callers pass what they know (``field.independent_gaussian``). NaN where sigma = 0: the velocity does not hold
        the score there.

        Raises:
            UserError: when the coupling or the source may be another one.
        """
        require_independent_gaussian(assume_independent_gaussian)
        sigma = self.coefficients(t).sigma
        lost = sigma < torch.finfo(sigma.dtype).eps
        return self.noise(x, v, t) / like(-sigma.masked_fill(lost, torch.nan), x)

    def diffusion_velocity(self, x: State, v: State, t: Time) -> State:
        """F = alpha x0 - sigma x1, the "v-prediction" of diffusion models (Salimans and Ho 2022, arXiv 2202.00512)."""
        alpha, sigma, _, _ = self.coefficients(t)
        return like(alpha, x) * self.noise(x, v, t) - like(sigma, x) * self.data(x, v, t)

    # To the velocity: through the pair (x1, x0).

    def velocity(self, x1: State, x0: State, t: Time) -> State:
        """alpha' x1 + sigma' x0."""
        _, _, d_alpha, d_sigma = cast(self.coefficients(column(t, x1)), x1)
        return torch.addcmul(d_alpha * x1, d_sigma, x0)

    def velocity_from_data(self, x1: State, x: State, t: Time) -> State:
        """v from a data prediction; where sigma = 0 the noise is taken as 0, its limit (centred, independent)."""
        alpha, sigma, d_alpha, d_sigma = self.coefficients(column(t, x))
        alpha, d_alpha, of_rest = cast((alpha, d_alpha, d_sigma * _reciprocal(sigma)), x)
        # Subtract first: near t = 1 the difference is small and exact, and only then divided by the small sigma.
        return torch.addcmul(d_alpha * x1, of_rest, torch.addcmul(x, alpha, x1, value=-1))

    def velocity_from_noise(self, x0: State, x: State, t: Time) -> State:
        """v from a noise prediction; where alpha = 0 the data is taken as 0, the limit for centred data."""
        alpha, sigma, d_alpha, d_sigma = self.coefficients(column(t, x))
        sigma, d_sigma, of_rest = cast((sigma, d_sigma, d_alpha * _reciprocal(alpha)), x)
        return torch.addcmul(d_sigma * x0, of_rest, torch.addcmul(x, sigma, x0, value=-1))

    def velocity_from_score(self, score: State, x: State, t: Time) -> State:
        """v from -x0 / sigma (the score, for an independent standard normal source); limits as from the noise."""
        return self.velocity_from_noise(like(-self.coefficients(t).sigma, x) * score, x, t)

    def velocity_from_diffusion(self, output: State, x: State, t: Time) -> State:
        """v from F = alpha x0 - sigma x1, regular at both ends."""
        alpha, sigma, d_alpha, d_sigma = self.coefficients(column(t, x))
        # x1 = (alpha x - sigma F) / q and x0 = (sigma x + alpha F) / q with q = alpha^2 + sigma^2.
        over = 1.0 / (alpha * alpha + sigma * sigma)
        of_x = (d_alpha * alpha + d_sigma * sigma) * over
        of_output = (d_sigma * alpha - d_alpha * sigma) * over
        of_x, of_output = cast((of_x, of_output), x)
        return torch.addcmul(of_x * x, of_output, output)


def affine(path: Path | None, who: object, instead: str = "") -> AffinePath:
    """``path``, where it is affine.

    Raises:
        UserError: it is not: ``who`` needs one, and may do ``instead``.
    """
    if isinstance(path, AffinePath):
        return path
    kind = "this field has none" if path is None else f"{type(path).__name__} is none"
    raise UserError(f"{who} needs an affine path, and {kind}{instead and f': {instead}'}")


def require_independent_gaussian(holds: bool) -> None:
    """Refuse a score where it would be wrong."""
    if not holds:
        raise UserError(
            "a score needs a standard normal source and the independent coupling; "
            "if that is what the field was trained with, say assume_independent_gaussian=True"
        )
