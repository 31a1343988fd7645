"""Laws of training times, with their densities.

The objective sees only the product of density and weight: two laws with the same product have the same optimum and
different variance. All weights here are 1 except those of :class:`ImportanceTimes`, which divide by the density.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowkit.errors import UserError
from flowkit.paths.path import Path
from flowkit.random import RandomSource, normal, stratified, uniform
from flowkit.times.law import TimeLaw, Times

__all__ = ["GridTimes", "ImportanceTimes", "LogitNormalTimes", "StratifiedTimes", "UShapedTimes", "UniformTimes"]


def _unweighted(t: Tensor) -> Times:
    return Times(t, torch.ones_like(t))


def _checked_range(name: str, low: float, high: float) -> None:
    if not 0.0 <= low < high <= 1.0:
        raise UserError(f"{name}: 0 <= low < high <= 1 is needed, got low={low} and high={high}")


class UniformTimes(TimeLaw):
    """Uniform on [low, high]; the whole [0, 1] unless the prediction is singular at an end."""

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        _checked_range("UniformTimes", low, high)
        self.low = low
        self.high = high

    def draw(self, n: int, path: Path, generator: RandomSource | None, *, device: torch.device | str = "cpu") -> Times:
        t = uniform((n,), generator, device=device)
        whole = self.low == 0.0 and self.high == 1.0
        return _unweighted(t if whole else self.low + (self.high - self.low) * t)

    def density(self, t: Float[Tensor, " *b"], path: Path) -> Float[Tensor, " *b"]:
        return _inside(t, self.low, self.high) / (self.high - self.low)

    def __repr__(self) -> str:
        return f"UniformTimes(low={self.low:g}, high={self.high:g})"


def _inside(t: Tensor, low: float, high: float) -> Tensor:
    return ((t >= low) & (t <= high)).to(t.dtype)


class StratifiedTimes(TimeLaw):
    """t_i = (u + i / B) mod 1 with one u a batch: uniform for each sample, evenly spread over the (global) batch.

    Kingma et al. 2021, "Variational Diffusion Models" (arXiv 2107.00630), appendix I.1.
    """

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        _checked_range("StratifiedTimes", low, high)
        self.low = low
        self.high = high

    def draw(self, n: int, path: Path, generator: RandomSource | None, *, device: torch.device | str = "cpu") -> Times:
        t = stratified(n, generator, device=device)
        whole = self.low == 0.0 and self.high == 1.0
        return _unweighted(t if whole else self.low + (self.high - self.low) * t)

    def density(self, t: Float[Tensor, " *b"], path: Path) -> Float[Tensor, " *b"]:
        return _inside(t, self.low, self.high) / (self.high - self.low)

    def __repr__(self) -> str:
        return f"StratifiedTimes(low={self.low:g}, high={self.high:g})"


class GridTimes(TimeLaw):
    """t uniform over 0, 1/steps, ..., (steps - 1)/steps: the times at which an Euler sampler of ``steps`` steps looks.

    On the pairs of a rectified flow this is distillation for that sampler, with ``steps`` 1 for a single step T(x0) =
    x0 + v(x0, 0). Liu et al. 2022, "Flow Straight and Fast" (arXiv 2209.03003), section 2.2.
    On ``DiffusionPath(steps=K)`` with ``steps`` K they are the K noise levels of a diffusion model.

    Args:
        steps: of the sampler.
        backward: from data to noise: t over 1/steps, ..., 1, where a sampler over the span (1, 0) looks.
    """

    def __init__(self, steps: int = 1, *, backward: bool = False) -> None:
        if steps < 1:
            raise UserError(f"GridTimes: steps must be at least 1, got {steps}")
        self.steps, self.backward = steps, backward

    def draw(self, n: int, path: Path, generator: RandomSource | None, *, device: torch.device | str = "cpu") -> Times:
        index = (uniform((n,), generator, device=device) * self.steps).floor().clamp_max(self.steps - 1)
        return _unweighted((index + self.backward) / self.steps)

    def __repr__(self) -> str:
        return f"GridTimes(steps={self.steps}{', backward=True' if self.backward else ''})"


class LogitNormalTimes(TimeLaw):
    """t = sigmoid(mean + deviation N(0, 1)): more times in the middle (Esser et al. 2024, arXiv 2403.03206).

    Args:
        mean: positive values move the times toward the data.
        deviation: positive.
    """

    def __init__(self, mean: float = 0.0, deviation: float = 1.0) -> None:
        if not (math.isfinite(deviation) and deviation > 0.0):
            raise UserError(f"LogitNormalTimes: deviation must be positive, got {deviation}")
        self.mean = mean
        self.deviation = deviation

    def draw(self, n: int, path: Path, generator: RandomSource | None, *, device: torch.device | str = "cpu") -> Times:
        return _unweighted(torch.sigmoid(self.mean + self.deviation * normal((n,), generator, device=device)))

    def density(self, t: Float[Tensor, " *b"], path: Path) -> Float[Tensor, " *b"]:
        inside = t.clamp(torch.finfo(t.dtype).tiny, 1.0 - torch.finfo(t.dtype).eps)
        z = (torch.logit(inside) - self.mean) / self.deviation
        return torch.exp(-0.5 * z.square()) / (self.deviation * math.sqrt(2.0 * math.pi) * inside * (1.0 - inside))

    def __repr__(self) -> str:
        return f"LogitNormalTimes(mean={self.mean:g}, deviation={self.deviation:g})"


class UShapedTimes(TimeLaw):
    """p(t) proportional to e^(rate t) + e^(rate (1 - t)): more times at both ends (Lee et al. 2024, arXiv 2405.20320).

    Args:
        rate: a > 0; 4 in the paper.
    """

    def __init__(self, rate: float = 4.0) -> None:
        if not (math.isfinite(rate) and rate > 0.0):
            raise UserError(f"UShapedTimes: rate must be positive, got {rate}")
        self.rate = rate

    def draw(self, n: int, path: Path, generator: RandomSource | None, *, device: torch.device | str = "cpu") -> Times:
        u = uniform((n,), generator, device=device)
        # The decreasing half by inversion, mirrored with probability one half.
        t = (-torch.log1p(u * math.expm1(-self.rate)) / self.rate).clamp(0.0, 1.0)
        mirror = uniform((n,), generator, device=device) < 0.5
        return _unweighted(torch.where(mirror, 1.0 - t, t))

    def density(self, t: Float[Tensor, " *b"], path: Path) -> Float[Tensor, " *b"]:
        a = self.rate
        return a * (torch.exp(-a * t) + torch.exp(-a * (1.0 - t))) / (-2.0 * math.expm1(-a))

    def __repr__(self) -> str:
        return f"UShapedTimes(rate={self.rate:g})"


class ImportanceTimes(nn.Module, TimeLaw):
    """Times where the loss is large, with weights 1 / p(t): the mean stays that of uniform times, the variance falls.

    The density is constant in each of ``bins`` equal intervals. With ``adapt`` it follows the recorded losses: the
    variance of the estimate is least for p proportional to the root of the mean squared loss, of which a moving average
    is kept in buffers (saved and resumed with the objective that holds this law). A module, so that checkpoints see it.

    Args:
        density: heights of the bins (any positive scale); empty: uniform to begin with.
        bins: number of bins when ``density`` is empty.
        adapt: follow the losses given to :meth:`record`.
        momentum: of the moving average, per record that touches a bin.
        uniform_share: share of uniform times, in (0, 1] when adapting; bounds every weight by its inverse.
    """

    #: Its sums are those of all processes.
    over_processes = True
    heights: Tensor
    mean_square: Tensor
    seen: Tensor

    def __init__(
        self,
        density: list[float] | None = None,
        *,
        bins: int = 32,
        adapt: bool = False,
        momentum: float = 0.98,
        uniform_share: float = 0.1,
    ) -> None:
        super().__init__()
        given = [1.0] * bins if not density else list(density)
        if not given or not all(math.isfinite(h) and h > 0.0 for h in given):
            raise UserError(f"ImportanceTimes: every bin needs a positive height, got {given}")
        if not 0.0 <= uniform_share <= 1.0 or (adapt and uniform_share == 0.0):
            raise UserError(
                f"ImportanceTimes: uniform_share must lie in [0, 1], above 0 when adapting, got {uniform_share}"
            )
        if not 0.0 <= momentum < 1.0:
            raise UserError(f"ImportanceTimes: momentum must lie in [0, 1), got {momentum}")
        self.adapt = adapt
        self.momentum = momentum
        self.uniform_share = uniform_share
        heights = torch.tensor(given, dtype=torch.float32)
        self.register_buffer("heights", heights / heights.mean())
        self.register_buffer("mean_square", torch.zeros_like(heights))
        self.register_buffer("seen", torch.zeros_like(heights, dtype=torch.bool))

    def _density(self) -> Tensor:
        """Heights with mean 1."""
        if not self.adapt:
            return self.heights
        return self.uniform_share + (1.0 - self.uniform_share) * self.heights

    def _bin(self, t: Tensor) -> Tensor:
        return (t * len(self.heights)).long().clamp(0, len(self.heights) - 1)

    def draw(self, n: int, path: Path, generator: RandomSource | None, *, device: torch.device | str = "cpu") -> Times:
        p = self._density().to(device)
        upper = p.double().cumsum(0) / len(p)
        u = uniform((n,), generator, device=device).double() * upper[-1]
        k = torch.searchsorted(upper, u, right=True).clamp_max(len(p) - 1)
        inside = ((upper[k] - u) * len(p) / p[k]).clamp(0.0, 1.0)  # distance to the bin's upper edge, in bins
        t = ((k + 1.0 - inside) / len(p)).float()
        return Times(t, 1.0 / p[k])

    def density(self, t: Float[Tensor, " *b"], path: Path) -> Float[Tensor, " *b"]:
        return self._density().to(t)[self._bin(t)] * _inside(t, 0.0, 1.0)

    @torch.no_grad()
    def record(self, t: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> None:
        """Learn from the *unweighted* losses at times ``t``; all processes together when several train."""
        if not self.adapt:
            return
        k, square = self._bin(t.to(self.heights)), loss.detach().to(self.heights).square()
        sums = torch.zeros(2, len(self.heights), device=k.device)
        sums[0].index_add_(0, k, square)
        sums[1].index_add_(0, k, torch.ones_like(square))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        touched = sums[1] > 0
        mean = sums[0] / sums[1].clamp_min(1.0)
        followed = torch.where(self.seen, torch.lerp(mean, self.mean_square, self.momentum), mean)
        self.mean_square.copy_(torch.where(touched, followed, self.mean_square))
        self.seen |= touched
        known = self.seen.to(square)
        root = self.mean_square.sqrt()
        # Bins not seen yet count as an average one.
        average = (root * known).sum() / known.sum().clamp_min(1.0)
        root = torch.where(self.seen, root, average)
        self.heights.copy_(torch.where(average > 0, root / root.mean().clamp_min(1e-30), torch.ones_like(root)))

    def __repr__(self) -> str:
        return f"ImportanceTimes(bins={len(self.heights)}, adapt={self.adapt}, uniform_share={self.uniform_share:g})"
