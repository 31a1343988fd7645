"""The oracle: a Gaussian mixture seen through an affine path, everything in closed form.

Independent x0 ~ N(0, I) and x1 ~ sum_k w_k N(mu_k, c_k^2 I). With q_k = alpha^2 c_k^2 + sigma^2, e_k = x - alpha mu_k
and responsibilities r_k = softmax_k(log w_k - |e_k|^2 / (2 q_k) - (d/2) log q_k):

- data E[x1 | x] = sum_k r_k (mu_k + (alpha c_k^2 / q_k) e_k), noise E[x0 | x] = sum_k r_k (sigma / q_k) e_k;
- velocity v = sum_k r_k v_k, v_k = alpha' mu_k + g_k e_k, g_k = (alpha alpha' c_k^2 + sigma sigma') / q_k;
- score = sum_k r_k s_k, s_k = -e_k / q_k; divergence = sum_k r_k (d g_k + (s_k - score) . v_k).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.fields.field import Evaluation, Field
from flowkit.paths.affine import AffinePath
from flowkit.paths.linear import LinearPath
from flowkit.random import RandomSource, normal, uniform

__all__ = ["GaussianMixture", "MixtureField"]

State = Float[Tensor, "b *d"]
Time = Float[Tensor, " b"]


class _Terms(NamedTuple):
    """What all formulas share; x is flattened to (b, d), components are the axis 1."""

    log_parts: Tensor  # (b, k): log w_k + log N(x; alpha mu_k, q_k I)
    r: Tensor  # (b, k)
    e: Tensor  # (b, k, d)
    q: Tensor  # (b, k)
    alpha: Tensor  # (b, 1), and so on
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor


class GaussianMixture:
    """Closed-form flow from N(0, I) to a mixture of isotropic Gaussians; works in the dtype of its parameters (default
    float64).

    Args:
        weights: (k,), positive; normalised here.
        means: (k, *d).
        scales: (k,) deviations c_k >= 0, or one number for all. 0 is a point mass: no density at sigma = 0.
        path: any affine path; default linear.
        dtype, device: of the parameters, of samples and results.
    """

    def __init__(
        self,
        weights: Tensor | Sequence[float],
        means: Tensor | Sequence[Sequence[float]],
        scales: Tensor | Sequence[float] | float,
        path: AffinePath | None = None,
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        w = torch.as_tensor(weights, dtype=dtype, device=device)
        self.means = torch.as_tensor(means, dtype=dtype, device=device)
        self.scales = torch.as_tensor(scales, dtype=dtype, device=device).expand(w.shape)
        if w.ndim != 1 or self.means.shape[:1] != w.shape or self.means.ndim < 2:
            raise UserError(
                f"GaussianMixture: weights (k,) and means (k, *d), got {tuple(w.shape)} and {tuple(self.means.shape)}"
            )
        if bool((w <= 0).any()) or bool((self.scales < 0).any()):
            raise UserError("GaussianMixture: weights must be positive and scales not negative")
        self.weights = w / w.sum()
        self.path = LinearPath() if path is None else path
        self.shape = tuple(self.means.shape[1:])
        self.dimension = math.prod(self.shape)
        self._mu = self.means.flatten(1)

    @classmethod
    def ring(
        cls,
        components: int = 8,
        radius: float = 3.0,
        scale: float = 0.3,
        path: AffinePath | None = None,
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> GaussianMixture:
        """Equal Gaussians on a circle in the plane: the "8 Gaussians" of the literature."""
        angle = 2.0 * math.pi * torch.arange(components, dtype=torch.float64) / components
        means = radius * torch.stack((angle.cos(), angle.sin()), 1)
        return cls([1.0] * components, means, scale, path, dtype=dtype, device=device)

    def on(self, path: AffinePath) -> GaussianMixture:
        """The same mixture on another path."""
        return GaussianMixture(
            self.weights, self.means, self.scales, path, dtype=self.means.dtype, device=self.means.device
        )

    def _terms(self, x: Tensor, t: Tensor) -> _Terms:
        flat = x.flatten(1)
        alpha, sigma, d_alpha, d_sigma = (c.to(flat.dtype)[:, None] for c in self.path.coefficients(t))
        e = flat[:, None, :] - alpha[:, :, None] * self._mu
        q = (alpha * self.scales).square() + sigma.square()
        log_normal = -0.5 * (e.square().sum(2) / q + self.dimension * (q.log() + math.log(2.0 * math.pi)))
        log_parts = self.weights.log() + log_normal
        return _Terms(log_parts, log_parts.softmax(1), e, q, alpha, sigma, d_alpha, d_sigma)

    def _component_velocities(self, terms: _Terms) -> tuple[Tensor, Tensor]:
        g = (terms.alpha * terms.d_alpha * self.scales.square() + terms.sigma * terms.d_sigma) / terms.q
        return g, terms.d_alpha[:, :, None] * self._mu + g[:, :, None] * terms.e

    def _mean(self, r: Tensor, values: Tensor, like: Tensor) -> Tensor:
        return torch.einsum("bk,bkd->bd", r, values).reshape(like.shape)

    def velocity(self, x: State, t: Time) -> State:
        """The marginal field v(x, t) = E[alpha' x1 + sigma' x0 | x_t = x]."""
        terms = self._terms(x, t)
        return self._mean(terms.r, self._component_velocities(terms)[1], x)

    def data(self, x: State, t: Time) -> State:
        """E[x1 | x_t = x]."""
        terms = self._terms(x, t)
        gain = terms.alpha * self.scales.square() / terms.q
        return self._mean(terms.r, self._mu + gain[:, :, None] * terms.e, x)

    def noise(self, x: State, t: Time) -> State:
        """E[x0 | x_t = x]."""
        terms = self._terms(x, t)
        return self._mean(terms.r, (terms.sigma / terms.q)[:, :, None] * terms.e, x)

    def score(self, x: State, t: Time) -> State:
        """grad log p_t(x)."""
        terms = self._terms(x, t)
        return self._mean(terms.r, -terms.e / terms.q[:, :, None], x)

    def diffusion_velocity(self, x: State, t: Time) -> State:
        """E[alpha x0 - sigma x1 | x_t = x]."""
        alpha, sigma, _, _ = (c.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)) for c in self.path.coefficients(t))
        return alpha * self.noise(x, t) - sigma * self.data(x, t)

    def divergence(self, x: State, t: Time) -> Time:
        """div v(x, t)."""
        terms = self._terms(x, t)
        g, v = self._component_velocities(terms)
        s = -terms.e / terms.q[:, :, None]
        apart = s - torch.einsum("bk,bkd->bd", terms.r, s)[:, None, :]
        return (terms.r * (self.dimension * g + (apart * v).sum(2))).sum(1)

    def velocity_variance(self, x: State, t: Time) -> Time:
        """E[|alpha' x1 + sigma' x0 - v(x, t)|^2 | x_t = x], summed over elements: how much paths cross."""
        terms = self._terms(x, t)
        _, v = self._component_velocities(terms)
        apart = v - torch.einsum("bk,bkd->bd", terms.r, v)[:, None, :]
        wronskian = terms.d_alpha * terms.sigma - terms.alpha * terms.d_sigma
        inside = self.dimension * (wronskian * self.scales).square() / terms.q
        return (terms.r * (apart.square().sum(2) + inside)).sum(1)

    def log_prob(self, x: State, t: Time | None = None) -> Time:
        """log p_t(x) in nats; without ``t`` the log-density of the data themselves (sigma = 0)."""
        if t is not None:
            return self._terms(x, t).log_parts.logsumexp(1)
        q = self.scales.square()
        square = (x.flatten(1)[:, None, :] - self._mu).square().sum(2)
        parts = self.weights.log() - 0.5 * (square / q + self.dimension * (q.log() + math.log(2.0 * math.pi)))
        return parts.logsumexp(1)

    def sample(self, n: int, generator: RandomSource | None = None) -> State:
        """``n`` draws x1 of the data."""
        u = uniform((n,), generator, device=self.means.device, dtype=self.means.dtype)
        k = torch.searchsorted(self.weights.cumsum(0), u).clamp_max(len(self.weights) - 1)
        noise = normal((n, *self.shape), generator, device=self.means.device, dtype=self.means.dtype)
        return self.means[k] + self.scales[k].reshape(-1, *[1] * len(self.shape)) * noise

    def sample_at(self, t: Time, generator: RandomSource | None = None) -> State:
        """One draw of p_t for each time of ``t``."""
        x1 = self.sample(len(t), generator)
        x0 = normal(tuple(x1.shape), generator, device=x1.device, dtype=x1.dtype)
        return self.path.at(x0, x1, t.to(x1.dtype)).xt

    def field(self) -> MixtureField:
        """The marginal velocity as a :class:`~flowkit.fields.field.Field`; scores are allowed."""
        return MixtureField(self)

    def __repr__(self) -> str:
        return f"GaussianMixture(components={len(self.weights)}, shape={self.shape}, path={self.path!r})"


class MixtureField(Field):
    """The exact field of a :class:`GaussianMixture`; ignores the condition."""

    independent_gaussian = True

    def __init__(self, mixture: GaussianMixture) -> None:
        self.mixture = mixture
        self.path = mixture.path

    def __call__(self, x: Float[Tensor, "b *d"], t: Float[Tensor, " b"], cond: Cond | None = None) -> Evaluation:
        return Evaluation(self.mixture.velocity(x, t))
