"""The law of training times for likelihoods: log-SNR with density proportional to alpha^2."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.errors import UserError
from flowkit.paths.log_snr import LogSNRPath
from flowkit.paths.path import Path
from flowkit.random import RandomSource, stratified, uniform
from flowkit.times.law import TimeLaw, Times

__all__ = ["LikelihoodTimes"]


class LikelihoodTimes(TimeLaw):
    """gamma with density alpha^2 / Z, and weights 1 / p(t): under them the weight of the likelihood is one constant for
    ``DiffusionVelocity`` on the VP path and for ``Displacement`` on the straight one, so its estimate varies less.

    Only for paths in log-SNR (``VPLogSNRPath``, ``SPLogSNRPath``). Zheng et al. 2023 (arXiv 2305.03935), section 4.2.

    Args:
        stratified: spread the draws evenly over the (global) batch, (u + i / B) mod 1 with one u.
    """

    def __init__(self, *, stratified: bool = True) -> None:
        self.stratified = stratified

    def draw(self, n: int, path: Path, generator: RandomSource | None, *, device: torch.device | str = "cpu") -> Times:
        path = _in_log_snr(path)
        make = stratified if self.stratified else _uniform
        t = path.time_at(path.quantile(make(n, generator, device=device))).float()
        return Times(t, 1.0 / self.density(t, path))

    def density(self, t: Float[Tensor, " *b"], path: Path) -> Float[Tensor, " *b"]:
        path = _in_log_snr(path)
        inside = ((t >= 0.0) & (t <= 1.0)).to(t.dtype)
        return inside * path.coefficients(t).alpha.square() * (path.span / path.mass)

    def __repr__(self) -> str:
        return f"LikelihoodTimes(stratified={self.stratified})"


def _uniform(n: int, generator: RandomSource | None, *, device: torch.device | str = "cpu") -> Tensor:
    return uniform((n,), generator, device=device)


def _in_log_snr(path: Path) -> LogSNRPath:
    if not isinstance(path, LogSNRPath):
        raise UserError(
            f"LikelihoodTimes draws log-SNRs, and {type(path).__name__} has another time: set path to VPLogSNRPath or "
            "SPLogSNRPath, or times to StratifiedTimes"
        )
    return path
