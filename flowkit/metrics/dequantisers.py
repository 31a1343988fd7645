"""From codes to states in which a flow's density is asked: the likelihood of quantised data.

Whatever the law q of the state x inside the bin of a code k, Jensen gives log P(k) >= E_q[log p(x) - log q(x)], and K
draws a tighter bound, E logsumexp_k(log p(x_k) - log q(x_k)) - log K (Burda et al. 2015, arXiv 1509.00519). Truncated
normal: Zheng et al. 2023 (arXiv 2305.03935), section 4.3.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowkit.errors import UserError
from flowkit.paths.affine import AffinePath
from flowkit.paths.path import Path
from flowkit.random import RandomSource, uniform
from flowkit.tensors import sum_per_sample

__all__ = ["Dequantised", "Dequantiser", "Levels", "TruncatedNormal", "Uniform", "code_bound", "mass_bits_per_dim"]


@dataclass(frozen=True)
class Levels:
    """``count`` bins of one width that fill [low, high]."""

    count: int = 256
    low: float = -1.0
    high: float = 1.0

    @property
    def half(self) -> float:
        """Half the width of a bin: 1 / 256 for bytes in [-1, 1]."""
        return 0.5 * (self.high - self.low) / self.count

    def centres(self, codes: Int[Tensor, "b *d"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "b *d"]:
        """The middles of the bins."""
        return self.low + self.half * (2.0 * codes.to(dtype) + 1.0)


class Dequantised(NamedTuple):
    """States x (b, *d) and log q(x) (b,) of each, summed over its elements."""

    x: Float[Tensor, "b *d"]
    log_q: Float[Tensor, " b"]


class Dequantiser(ABC):
    """A law of states inside the bins of codes, at the time :meth:`time` of a path."""

    @abstractmethod
    def time(self, path: Path) -> float:
        """Where the solve for the likelihood begins."""

    @abstractmethod
    def draw(
        self,
        codes: Int[Tensor, "b *d"],
        path: Path,
        generator: RandomSource | None,
        *,
        levels: Levels = Levels(),
        dtype: torch.dtype = torch.float32,
    ) -> Dequantised:
        """One state for each code."""


class Uniform(Dequantiser):
    """Uniform noise over the bin, at the data end of the path (scaled by alpha where it is not 1 there)."""

    def time(self, path: Path) -> float:
        return 1.0

    def draw(
        self,
        codes: Int[Tensor, "b *d"],
        path: Path,
        generator: RandomSource | None,
        *,
        levels: Levels = Levels(),
        dtype: torch.dtype = torch.float32,
    ) -> Dequantised:
        alpha = _ends(path, 1.0)[0] if isinstance(path, AffinePath) else 1.0
        u = uniform(tuple(codes.shape), generator, device=codes.device, dtype=dtype)
        x = alpha * (levels.centres(codes, dtype) + levels.half * (2.0 * u - 1.0))
        log_q = x.new_full(codes.shape[:1], -codes[0].numel() * math.log(2.0 * alpha * levels.half))
        return Dequantised(x, log_q)

    def __repr__(self) -> str:
        return "Uniform()"


class TruncatedNormal(Dequantiser):
    """x = alpha (middle of the bin) + sigma e with e ~ N(0, 1) cut at +-tau, tau = alpha (half a bin) / sigma: the
    noise that the model was trained with, which never leaves the bin. Needs no training, and starts where the path's
    log-SNR is ``gamma``.

    Args:
        gamma: log(sigma^2 / alpha^2) at the start; -13.3 cuts at three deviations for bytes.
    """

    def __init__(self, gamma: float = -13.3) -> None:
        self.gamma = gamma

    def time(self, path: Path) -> float:
        """See :class:`Dequantiser`.

        Raises:
            UserError: the path is not affine, or ends before ``gamma``.
        """
        if not isinstance(path, AffinePath):
            raise UserError(
                f"truncated dequantisation needs an affine path, {type(path).__name__} is none: say uniform"
            )
        t = float(path.time_of(torch.tensor(-0.5 * self.gamma, dtype=torch.float64)))
        alpha, sigma = _ends(path, t)
        if sigma <= 0.0 or abs(2.0 * math.log(sigma / alpha) - self.gamma) > 0.01:
            raise UserError(
                f"truncated dequantisation begins where log(sigma^2 / alpha^2) is {self.gamma:g}, which {path!r} does "
                "not reach: say uniform"
            )
        return t

    def draw(
        self,
        codes: Int[Tensor, "b *d"],
        path: Path,
        generator: RandomSource | None,
        *,
        levels: Levels = Levels(),
        dtype: torch.dtype = torch.float32,
    ) -> Dequantised:
        time = self.time(path)
        assert isinstance(path, AffinePath)
        alpha, sigma = _ends(path, time)
        tau = alpha * levels.half / sigma
        # By inversion in float64: e = sqrt 2 erfinv(u Ztn), u uniform on (-1, 1).
        u = 2.0 * uniform(tuple(codes.shape), generator, device=codes.device, dtype=torch.float64) - 1.0
        e = math.sqrt(2.0) * torch.erfinv(u * truncated_mass(tau))
        constant = 0.5 * math.log(2.0 * math.pi) + math.log(sigma) + math.log(truncated_mass(tau))
        log_q = sum_per_sample(-0.5 * e.square() - constant).to(dtype)
        x = alpha * levels.centres(codes, torch.float64) + sigma * e
        return Dequantised(x.to(dtype), log_q)

    def __repr__(self) -> str:
        return f"TruncatedNormal(gamma={self.gamma:g})"


def truncated_mass(tau: float) -> float:
    """Ztn = erf(tau / sqrt 2), the share of a normal within +-tau."""
    return math.erf(tau / math.sqrt(2.0))


def truncated_mean_log_density(tau: float, sigma: float) -> float:
    """E log q of sigma e, e ~ N(0, 1) cut at +-tau, per element: -(1 + log(2 pi sigma^2)) / 2 - log Ztn + tau
    e^(-tau^2 / 2) / (sqrt(2 pi) Ztn)."""
    mass = truncated_mass(tau)
    cut = tau * math.exp(-0.5 * tau * tau) / (math.sqrt(2.0 * math.pi) * mass)
    return -0.5 * (1.0 + math.log(2.0 * math.pi * sigma * sigma)) - math.log(mass) + cut


def code_bound(
    log_density: Callable[[Float[Tensor, "b *d"], float], Float[Tensor, " b"]],
    codes: Int[Tensor, "b *d"],
    dequantiser: Dequantiser,
    path: Path,
    *,
    samples: int = 1,
    generator: RandomSource | None = None,
    levels: Levels = Levels(),
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, " b"]:
    """A lower bound of log P(codes) in nats (the mass of the bin, not a density), tighter with more ``samples``.

    The - log K is part of it: without it bits per dimension look better by log K / (d ln 2).

    Args:
        log_density: (x, t) -> log p_t(x) (b,).
        codes: integers in 0 .. levels.count - 1.
        dequantiser: the law of x inside the bin.
        path: of the model.
        samples: K, at least 1.
        generator: draws the noise.
        levels: the bins.
        dtype: of the states.

    Raises:
        ValueError: ``samples`` is below 1.
    """
    if samples < 1:
        raise ValueError(f"samples must be 1 or more, not {samples}")
    time, ratios = dequantiser.time(path), []
    for _ in range(samples):
        x, log_q = dequantiser.draw(codes, path, generator, levels=levels, dtype=dtype)
        ratios.append((log_density(x, time) - log_q).double())
    return torch.stack(ratios).logsumexp(0) - math.log(samples)


def mass_bits_per_dim(log_mass: Float[Tensor, " b"], elements: int) -> Float[Tensor, " b"]:
    """-log P / (d ln 2): no constant, since P is a mass."""
    return -log_mass / (elements * math.log(2.0))


def _ends(path: AffinePath, t: float) -> tuple[float, float]:
    alpha, sigma, _, _ = path.coefficients(torch.tensor([t], dtype=torch.float64))
    return float(alpha), float(sigma)
