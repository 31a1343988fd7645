"""The oracle of quantised data: a Gaussian mixture rounded to the middles of bins, with known masses and exact field.

Within a component the elements are independent, so everything is a sum over components of products over elements of
sums over bins: for component k and element j with bin masses m_kj(v) and middles c_v,

    N_kj(x) = sum_v m_kj(v) N(x_j; alpha c_v, sigma^2),    E_kj = sum_v m_kj(v) N(x_j; alpha c_v, sigma^2) c_v / N_kj.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowkit.cond import Cond
from flowkit.fields.field import Evaluation, Field
from flowkit.metrics.dequantisers import Levels
from flowkit.paths.affine import AffinePath
from flowkit.random import RandomSource
from flowkit.testing.mixture import GaussianMixture

__all__ = ["QuantisedMixture"]


class QuantisedMixture(Field):
    """``mixture`` rounded to the bins of ``levels`` (the outer bins take the tails), seen through ``path``: a field,
    and exact masses. States are flat, (b, d), and float64.
    """

    independent_gaussian = True
    path: AffinePath

    def __init__(self, mixture: GaussianMixture, path: AffinePath, levels: Levels | None = None) -> None:
        self.mixture, self.path, self.levels = mixture, path, Levels() if levels is None else levels
        count = self.levels.count
        edges = self.levels.low + 2.0 * self.levels.half * torch.arange(count + 1, dtype=torch.float64)
        z = (edges - mixture.means.flatten(1).double()[:, :, None]) / mixture.scales.double()[:, None, None]
        below = torch.special.ndtr(z)
        below[..., 0], below[..., -1] = 0.0, 1.0
        #: log masses of the bins (k, d, count); from the nearer tail, so that far bins are not lost to rounding.
        masses = below.diff(dim=-1).clamp_min(1e-300)
        self.log_masses, self.log_weights = masses.log(), mixture.weights.double().log()
        self.centres = self.levels.centres(torch.arange(count), torch.float64)

    def log_mass(self, codes: Int[Tensor, "b d"]) -> Float[Tensor, " b"]:
        """log P(codes)."""
        index = codes.long().T[None].expand(len(self.log_weights), -1, -1)
        parts = self.log_masses.gather(2, index).sum(1)
        return (self.log_weights[:, None] + parts).logsumexp(0)

    def sample(self, n: int, generator: RandomSource | None = None) -> Int[Tensor, "n d"]:
        """``n`` draws of codes."""
        x = self.mixture.sample(n, generator).flatten(1)
        code = ((x - self.levels.low) / (2.0 * self.levels.half)).floor()
        return code.clamp(0, self.levels.count - 1).long()

    def data(self, x: Float[Tensor, "b d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """E[x1 | x_t = x]."""
        log_each, expected = self._parts(x, t)
        r = (self.log_weights + log_each.sum(2)).softmax(1)
        return torch.einsum("bk,bkd->bd", r, expected)

    def log_prob(self, x: Float[Tensor, "b d"], t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """log p_t(x) in nats."""
        return (self.log_weights + self._parts(x, t)[0].sum(2)).logsumexp(1)

    def _parts(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """log N_kj (b, k, d) and E_kj (b, k, d)."""
        alpha, sigma, _, _ = (c.to(x)[:, None, None] for c in self.path.coefficients(t))
        z = (x[:, :, None] - alpha * self.centres) / sigma
        log_normal = -0.5 * z.square() - sigma.log() - 0.5 * math.log(2.0 * math.pi)
        joint = self.log_masses + log_normal[:, None]
        log_each = joint.logsumexp(3)
        return log_each, (joint - log_each[..., None]).exp() @ self.centres

    def __call__(self, x: Float[Tensor, "b d"], t: Float[Tensor, " b"], cond: Cond | None = None) -> Evaluation:
        return Evaluation(self.path.velocity_from_data(self.data(x, t), x, t))
