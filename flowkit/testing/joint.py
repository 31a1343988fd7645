"""A jointly Gaussian coupling on the linear path: the oracle for couplings that are not independent.

Zero means, covariances S0 and S1, C = E[x0 x1^T]: v(x, t) = K_t Sigma_t^-1 x with
Sigma_t = (1-t)^2 S0 + t^2 S1 + t(1-t)(C + C^T) and K_t = (1-t)(C^T - S0) + t(S1 - C).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.fields.field import Evaluation, Field
from flowkit.paths.linear import LinearPath
from flowkit.random import RandomSource, normal

__all__ = ["JointGaussian"]


class JointGaussian(Field):
    """The exact field of (x0, x1) jointly Gaussian on the linear path; scores are refused, as the coupling may be any.

    Args:
        source: S0 (d, d).
        data: S1 (d, d).
        cross: C = E[x0 x1^T] (d, d); zeros: independent.

    Raises:
        UserError: when the three are not the covariance of one joint law.
    """

    def __init__(self, source: Float[Tensor, "d d"], data: Float[Tensor, "d d"], cross: Float[Tensor, "d d"]) -> None:
        self.path = LinearPath()
        self.source, self.data, self.cross = source, data, cross
        joint = torch.cat((torch.cat((source, cross), 1), torch.cat((cross.T, data), 1)))
        values, vectors = torch.linalg.eigh(joint)
        if not torch.allclose(joint, joint.T) or float(values.min()) < -1e-9 * float(values.max()):
            raise UserError(
                "JointGaussian: source, data and cross are not blocks of one symmetric, non-negative covariance"
            )
        self._root = vectors * values.clamp_min(0.0).sqrt()

    def covariance(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b d d"]:
        """Sigma_t, the covariance of x_t."""
        t = t[:, None, None]
        return (1 - t) ** 2 * self.source + t**2 * self.data + t * (1 - t) * (self.cross + self.cross.T)

    def matrix(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b d d"]:
        """K_t Sigma_t^-1, so that v = matrix x; its trace is the divergence."""
        s = t[:, None, None]
        k = (1 - s) * (self.cross.T - self.source) + s * (self.data - self.cross)
        return torch.linalg.solve(self.covariance(t), k, left=False)

    def gradient_matrix(
        self, t: Float[Tensor, " b"], form: Float[Tensor, "d d"] | None = None
    ) -> Float[Tensor, "b d d"]:
        """The matrix M of the c-rectified field v = M x for the cost x^T H x / 2, H = ``form`` (default I): M = H^-1 P
        with P symmetric, so v = H^-1 grad (x^T P x / 2), and the same law at every time.

        P solves H^-1 P Sigma + Sigma P H^-1 = G Sigma + Sigma G^T with G of :meth:`matrix`. Liu 2022 (arXiv
        2209.14577).
        """
        sigma, g = self.covariance(t), self.matrix(t)
        d = sigma.shape[1]
        inverse = torch.eye(d).to(sigma) if form is None else torch.linalg.inv(form).to(sigma).contiguous()
        right = g @ sigma + sigma @ g.mT
        # Rows one after the other: A P B becomes (A x B^T) P.
        left = torch.stack([torch.kron(inverse, s) + torch.kron(s, inverse) for s in sigma.contiguous()])
        p = torch.linalg.solve(left, right.reshape(-1, d * d)).reshape(-1, d, d)
        return inverse @ (0.5 * (p + p.mT))

    def __call__(self, x: Float[Tensor, "b d"], t: Float[Tensor, " b"], cond: Cond | None = None) -> Evaluation:
        return Evaluation(torch.einsum("bij,bj->bi", self.matrix(t.to(x.dtype)), x))

    def divergence(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """div v, the same at every x."""
        return self.matrix(t).diagonal(dim1=1, dim2=2).sum(1)

    def log_prob(self, x: Float[Tensor, "b d"], t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """log p_t(x)."""
        covariance = self.covariance(t)
        white = torch.einsum("bi,bi->b", x, torch.linalg.solve(covariance, x))
        return -0.5 * (white + torch.logdet(covariance) + x.shape[1] * math.log(2.0 * math.pi))

    def sample(self, n: int, generator: RandomSource | None = None) -> tuple[Tensor, Tensor]:
        """``n`` pairs (x0, x1)."""
        noise = normal((n, len(self._root)), generator, device=self._root.device, dtype=self._root.dtype)
        x0, x1 = (noise @ self._root.T).chunk(2, 1)
        return x0, x1
