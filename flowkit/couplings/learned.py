"""Learned couplings: the noise of a sample is drawn from an encoder that is trained with the flow.

With q(x0 | x1) = N(mean(x1), diag exp(log_variance(x1))) in units of the source, reparameterised, the loss is

    mean |v(x_t, t) - (x1 - x0)|^2 + beta KL(q(x0 | x1) || source), the KL as a mean over elements,

and its gradient reaches the encoder through x_t and through the target. Lines of such pairs cross less, so trajectories
are straighter from the start. beta to infinity is the independent coupling; beta to 0 a deterministic pairing whose
noise no longer follows the source. Only the *aggregate* of q over the data should be the source: at usual beta it is
narrower, so its moments are logged. Lee et al. 2023, "Minimizing Trajectory Curvature of ODE-based Generative Models"
(arXiv 2301.12003). The encoder is thrown away after training: sampling draws from the source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.couplings.coupling import Batch, Coupling, Draw, NetworksByName
from flowkit.errors import UserError
from flowkit.nn.network import Head, NetworkSpec
from flowkit.random import RandomSource, normal_like
from flowkit.sources.source import Source
from flowkit.tensors import mean_per_sample, sum_per_sample

__all__ = ["LearnedCoupling", "standard_kl"]

ENCODER = "encoder"


class LearnedCoupling(Coupling):
    """A learned coupling: an encoder draws the noise of each sample, trained with the flow for straighter trajectories.

    The task builds the encoder like its other networks, as one without a time and with two heads.

    Args:
        beta: weight of the KL term, positive; 20 for images in the paper, 5 for points. Too small, and draws of the
            source are no longer what the flow was trained on: compare ``aggregate_variance`` in the logs with 1.
        standardise: shift and scale all draws of the encoder by their mean and deviation (one number each, over samples
            and elements), so that the aggregate has those of the source: in training those of the batch that a process
            holds, with gradients (or the scale of the encoder would run away), else the running ones.
        momentum: of the running moments, per training step.
        bound: log-variances are held inside [-bound, bound].

    Raises:
        UserError: a number out of its range.
    """

    #: Its running moments are those of all processes.
    over_processes = True

    draws_x0 = True
    aggregate_mean: Tensor
    aggregate_square: Tensor
    seen: Tensor

    def __init__(
        self, *, beta: float = 20.0, standardise: bool = False, momentum: float = 0.99, bound: float = 10.0
    ) -> None:
        super().__init__()
        if not (math.isfinite(beta) and beta > 0.0) or not 0.0 <= momentum < 1.0 or not bound > 0.0:
            raise UserError(
                f"LearnedCoupling: beta={beta} and bound={bound} must be positive, momentum={momentum} in [0, 1)"
            )
        self.beta, self.standardise, self.momentum, self.bound = beta, standardise, momentum, bound
        self.register_buffer("aggregate_mean", torch.zeros(()))
        self.register_buffer("aggregate_square", torch.ones(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))

    def needs(self) -> dict[str, NetworkSpec]:
        """The encoder: one state, no time, the heads ``mean`` and ``log_variance``."""
        heads = (Head("mean"), Head("log_variance"))
        return {ENCODER: NetworkSpec(inputs=1, times=0, heads=heads, training_only=True)}

    def draw(self, batch: Batch, generator: RandomSource | None) -> NoReturn:
        """It cannot pair without its encoder.

        Raises:
            UserError: always; see :meth:`pair`.
        """
        raise UserError("LearnedCoupling needs its encoder: use it in an objective, which builds and passes it on")

    def pair(
        self, batch: Batch, generator: RandomSource | None, *, networks: NetworksByName | None, source: Source
    ) -> Draw:
        """x0 from the encoder, the draw of the source being its noise; the term ``kl`` (times beta).

        Raises:
            UserError: there is no encoder: the model was exported, which leaves it out.
        """
        if batch.x0 is None or batch.x1 is None or networks is None:
            return self.draw(batch, generator)
        x1, padding = batch.x1, batch.cond.padding
        try:
            encoder = networks[ENCODER]
        except KeyError:
            raise UserError(
                "LearnedCoupling: model folders come without the encoder that only training needs: go on from the run "
                "folder, or train with coupling: Independent"
            ) from None
        out = encoder((batch.cond.real(x1),), (), batch.cond)
        mean, log_variance = out["mean"].to(x1.dtype), out["log_variance"].to(x1.dtype).clamp(-self.bound, self.bound)
        moments = source.moments(batch.cond)
        if moments is None:
            noise, centre, scale = normal_like(x1, generator), 0.0, 1.0
        else:
            centre, scale = moments
            noise = (batch.x0 - centre) / scale
        z = mean + (0.5 * log_variance).exp() * noise
        if self.training:
            self._follow(z.detach(), padding)
        if self.standardise:
            middle, width = self._shift_and_scale(z, padding)
            z, mean, log_variance = (z - middle) / width, (mean - middle) / width, log_variance - 2.0 * width.log()
        x0 = centre + scale * z
        if moments is None:
            entropy = 0.5 * (1.0 + math.log(2.0 * math.pi) + log_variance)
            count = x1[0].numel() if padding is None else sum_per_sample(padding.expand_as(x1).to(x1.dtype))
            kl = -mean_per_sample(entropy, padding) - source.log_prob(x0, batch.cond) / count
        else:
            kl = mean_per_sample(standard_kl(mean, log_variance), padding)
        if batch.weight is not None:
            kl = kl * batch.weight
        return Draw(batch.replace(x0=x0), {"kl": self.beta * kl})

    @property
    def aggregate_variance(self) -> Float[Tensor, ""]:
        """Running variance of the encoder's draws over samples and elements, in units of the source."""
        return self.aggregate_square - self.aggregate_mean.square()

    def report(self) -> Mapping[str, Float[Tensor, ""]]:
        """Running moments of the encoder's draws: 0 and 1 where they follow the source."""
        return {"aggregate_mean": self.aggregate_mean.clone(), "aggregate_variance": self.aggregate_variance}

    def _shift_and_scale(self, z: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        if not self.training:
            return self.aggregate_mean.to(z), self.aggregate_variance.sqrt().clamp_min(1e-3).to(z)
        real = z if padding is None else z.masked_select(padding.expand_as(z))
        return real.mean(), real.std(correction=0).clamp_min(1e-3)

    @torch.no_grad()
    def _follow(self, z: Tensor, padding: Tensor | None) -> None:
        """Running moments, of all processes together."""
        real = None if padding is None else padding.expand_as(z)
        kept = z if real is None else z.where(real, z.new_zeros(()))
        count = kept.new_full((), kept.numel()) if real is None else real.sum().to(kept)
        sums = torch.stack([kept.sum(), kept.square().sum(), count]).float()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        share = torch.where(self.seen, 1.0 - self.momentum, 1.0)
        self.aggregate_mean.lerp_(sums[0] / sums[2].clamp_min(1.0), share)
        self.aggregate_square.lerp_(sums[1] / sums[2].clamp_min(1.0), share)
        self.seen.fill_(True)


def standard_kl(mean: Float[Tensor, "b *d"], log_variance: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) of each element: (mean^2 + variance - 1 - log variance) / 2."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)
