"""AdaFlow: flow matching with a second, small output that tells how spread the flow's target still is.

Beside the regression of the velocity, a scalar l(x_t, t, cond) is fitted to the residual r of the first output,

    L = E[ |r|^2 / (2 exp(2 l)) + l ],        dL/dl = 1 - |r|^2 exp(-2 l),

the negative log-likelihood of one Gaussian residual, least where exp(2 l) = E[|r|^2 | x_t, cond]: the conditional
variance. The sampler reads it and takes small steps where it is large (:mod:`flowkit.solvers.variance_adaptive`). Hu et
al. 2024, "AdaFlow: Imitation Learning with Variance-Adaptive Flow-Based Policies" (arXiv 2402.04292).

Units. The paper sums |r|^2 over the d elements of a sample; here it is their mean over the elements that the loss mask
keeps. So exp(l) is a root mean square, the paper's l is ours + log(d) / 2, and its eta / sqrt(d) is the eta of
``VarianceAdaptive``: one value means the same for every size of the state.

Whose residual. r is that of the network's output. A data prediction learns the spread of the data, which (on straight
paths) does not grow with t; the field turns it into that of the velocity: log_sigma = l + log(velocity_factor(t)) / 2.

At t = 0 on a path that starts in pure noise x_t says nothing of the data, so exp(l) is there the spread of the data
given the condition: only it decides whether one step will do.
"""

from __future__ import annotations

from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from flowkit.cond import Cond
from flowkit.couplings.coupling import Batch
from flowkit.errors import UserError
from flowkit.fields.field import LOG_SIGMA, Evaluation, Field
from flowkit.fields.network_field import NetworkField
from flowkit.nn.network import Head, Network, NetworkSpec
from flowkit.objectives.flow_matching import FlowMatching, squared_error
from flowkit.objectives.objective import Loss, Networks
from flowkit.paths.path import Path
from flowkit.random import RandomSource

__all__ = ["AdaFlow", "SpreadField"]

#: l is held inside these bounds: the residual of a deterministic target would send it to minus infinity.
LOWEST, HIGHEST = -6.0, 6.0


class AdaFlow(FlowMatching):
    """Flow matching and the spread of its target.

    Args:
        variance: ``shared`` reads l off the features of the main network, at no further call; ``separate`` trains a
            second network ``variance`` (a second call at each evaluation, and counted).
        joint: the paper's joint loss: L alone trains all, so the velocity regression of a sample is weighted by
            1 / (2 exp(2 l)) and samples of little spread dominate it. False: the velocity is trained by its own mean
            squared error, and l on a detached residual, detached features and a detached condition.
        **flow_matching: see :class:`FlowMatching`.

    Raises:
        UserError: as :class:`FlowMatching`, and an unknown ``variance``.
    """

    def __init__(
        self, *, variance: Literal["shared", "separate"] = "shared", joint: bool = False, **flow_matching: Any
    ) -> None:
        super().__init__(**flow_matching)
        if variance not in ("shared", "separate"):
            raise UserError(f"AdaFlow: variance={variance!r}: known are shared and separate")
        self.variance, self.joint = variance, joint

    def needs(self) -> dict[str, NetworkSpec]:
        """The main network with the head ``log_sigma``, or a second network for it."""
        others = self.coupling.needs()
        if self.variance == "shared":
            return {"main": NetworkSpec(heads=(Head("v"), Head(LOG_SIGMA, "scalar", detach=not self.joint))), **others}
        return {"main": NetworkSpec(), "variance": NetworkSpec(heads=(Head(LOG_SIGMA, "scalar"),)), **others}

    def loss(
        self,
        networks: Networks,
        batch: Batch,
        *,
        phase: str = "main",
        step: int = 0,
        generator: RandomSource | None = None,
    ) -> Loss:
        """The terms ``flow``, the squared error of :class:`FlowMatching`, and ``variance``, L of the module; their sum
        is minimised, or with ``joint`` L alone.
        """
        batch, point, weight, terms = self.draw(batch, generator, networks)
        xt = batch.cond.real(point.xt)
        heads = networks.main((xt,), (point.t,), batch.cond)
        target = self.prediction.target(point, self.path)
        square = squared_error(heads["v"], target, batch.loss_mask)
        flow = square if self.reduce == "mean" else squared_error(heads["v"], target, batch.loss_mask, self.reduce)
        if self.error == "velocity":
            flow = flow * self.prediction.velocity_factor(point.t, self.path).to(flow)
        if networks.main.training:
            self.times.record(point.t, flow.detach())

        log_sigma = heads[LOG_SIGMA] if self.variance == "shared" else self._separate(networks, xt, point.t, batch.cond)
        variance = spread_loss(square if self.joint else square.detach(), log_sigma)

        if batch.weight is not None:
            weight = weight * batch.weight
        weight = weight.to(square)
        minimised = {"variance": weight * variance, **terms}
        reported = {"flow": (weight * flow).detach()}
        if not self.joint:
            reported = minimised = {"flow": weight * flow, **minimised}
        loss = self.total(minimised)
        return Loss(loss.total, {**reported, **loss.terms})

    def _separate(self, networks: Networks, xt: Tensor, t: Tensor, cond: Cond) -> Float[Tensor, " b"]:
        if not self.joint:  # what encoded the condition learns from the velocity only
            cond = cond.map(Tensor.detach)
        return networks["variance"]((xt.detach(),), (t,), cond)[LOG_SIGMA]

    def field(self, networks: Networks) -> Field:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The trained velocity field, with the head ``log_sigma``."""
        variance = networks["variance"] if self.variance == "separate" else None
        return SpreadField(super().field(networks), variance)


class SpreadField(Field):
    """``field`` with the head ``log_sigma``: log of the root-mean-square spread of the velocity, (b,).

    Args:
        field: of the main network; its own head ``log_sigma`` is that of the network's output.
        variance: the network that is asked for that head instead, or None.
    """

    path: Path

    def __init__(self, field: NetworkField, variance: Network | None = None) -> None:
        assert field.path is not None  # a field of a network has one
        self.field, self.variance = field, variance
        self.path, self.prediction = field.path, field.prediction
        self.independent_gaussian = field.independent_gaussian

    def __call__(self, x: Float[Tensor, "b *d"], t: Float[Tensor, " b"], cond: Cond | None = None) -> Evaluation:
        """The velocity at (x, t) and its spread."""
        flow = self.field(x, t, cond)
        heads, calls = dict(flow.heads), flow.calls
        if self.variance is not None:
            heads[LOG_SIGMA] = self.variance((x,), (t,), Cond() if cond is None else cond)[LOG_SIGMA]
            calls = calls + 1
        of_output = heads[LOG_SIGMA].to(t.dtype).clamp(LOWEST, HIGHEST)
        heads[LOG_SIGMA] = of_output + 0.5 * self.prediction.velocity_factor(t, self.path).log()
        return Evaluation(flow.v, heads, calls)

    def __repr__(self) -> str:
        return f"SpreadField({self.field!r}, {self.variance!r})"


def spread_loss(square: Float[Tensor, " b"], log_sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """square / (2 exp(2 l)) + l with l = log_sigma inside its bounds; outside of them a parabola leads back."""
    log_sigma = log_sigma.to(square.dtype)  # never the half precision of a network
    inside = log_sigma.clamp(LOWEST, HIGHEST)
    outside = log_sigma - inside.detach()
    return square / (2.0 * (2.0 * inside).exp()) + inside + 0.5 * outside.square()
