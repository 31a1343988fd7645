"""i-DODE: flow matching for likelihoods.

With gamma = log(sigma^2 / alpha^2), the negative log-likelihood of a point is at most

    reconstruction + prior + 1/2 int |x0 - x0_hat|^2 d gamma,

so the squared error of the output is weighted by w(t) = alpha velocity_factor / (sigma D), which makes it that
integral for whatever the network predicts, and times are drawn where w is large
(:class:`flowkit.times.likelihood.LikelihoodTimes`). In fine-tuning a second-order term is added. At the exact field,
for every x and t,

    sigma div v - sigma' d - (alpha / D) E[|u - v|^2 | x_t = x] = 0

(u the velocity of the conditional path, d the number of elements). Its square holds the divergence, which the
likelihood integrates, to what the first-order error says it is. Zheng et al. 2023, "Improved Techniques for Maximum
Likelihood Estimation for Diffusion ODEs" (arXiv 2305.03935).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from flowkit.cond import Cond
from flowkit.couplings.coupling import Batch, Coupling
from flowkit.couplings.independent import Independent
from flowkit.errors import UserError
from flowkit.fields.predictions import DiffusionVelocity, Prediction
from flowkit.objectives.flow_matching import FlowMatching, squared_error
from flowkit.objectives.objective import Loss, Networks
from flowkit.paths.affine import AffinePath
from flowkit.paths.log_snr import VPLogSNRPath
from flowkit.paths.path import Path, Point
from flowkit.random import RandomSource, rademacher_like
from flowkit.sources.gaussian import Gaussian
from flowkit.tensors import sum_per_sample
from flowkit.times.law import TimeLaw
from flowkit.times.likelihood import LikelihoodTimes

__all__ = ["IDODE"]


class IDODE(FlowMatching):
    """Flow matching as a density model (i-DODE): the error is weighted so that it bounds the negative log-likelihood,
    in nats per element, and times are drawn where that weight is large.

    Args:
        path: an affine path; in log-SNR for the default ``times``.
        times: the law of training times.
        prediction: ``DiffusionVelocity`` for the VP path, ``Displacement`` for the straight one, or any other.
        second_order: weight of the second-order term, 0.1 in the paper; for fine-tuning alone: from scratch it is
            unstable. It costs a second derivative of the network, which must be smooth (SiLU, not ReLU).
        coupling: must stay ``Independent``, for the bound holds for no other.
        drop_condition, drop_names: see :class:`FlowMatching`.

    Raises:
        UserError: a path that is not affine, a coupling that is not independent, or a negative weight.
    """

    differentiates = True

    def __init__(
        self,
        *,
        path: Path = VPLogSNRPath(),  # noqa: B008  (stateless; recipes read the default from this line)
        times: TimeLaw = LikelihoodTimes(),  # noqa: B008
        prediction: Prediction = DiffusionVelocity(),  # noqa: B008
        second_order: float = 0.0,
        coupling: Coupling = Independent(),  # noqa: B008
        drop_condition: float = 0.0,
        drop_names: list[str] | None = None,
    ) -> None:
        if not isinstance(path, AffinePath):
            raise UserError(f"IDODE weighs errors by the log-SNR of an affine path; {type(path).__name__} has none")
        if not coupling.independent:
            raise UserError(
                f"IDODE bounds the likelihood for the coupling Independent, not for {type(coupling).__name__}: train "
                "FlowMatching with it, and leave the likelihood to the solver"
            )
        if second_order < 0.0:
            raise UserError(f"IDODE: second_order is a weight of at least 0, not {second_order:g}")
        super().__init__(
            path=path, source=Gaussian(), coupling=coupling, times=times, prediction=prediction,
            drop_condition=drop_condition, drop_names=drop_names,
        )  # fmt: skip
        self.affine, self.second_order = path, second_order

    @property
    def capturable(self) -> bool:
        """See :class:`FlowMatching`; second derivatives are not captured."""
        return super().capturable and not self.second_order

    def likelihood_weight(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """w(t): w |error of the output|^2 integrated over t in [0, 1] is 1/2 int |x0 - x0_hat|^2 d gamma."""
        alpha, sigma, _, _ = self.affine.coefficients(t)
        return alpha / (sigma * self.affine.wronskian(t)) * self.prediction.velocity_factor(t, self.affine)

    def loss(
        self,
        networks: Networks,
        batch: Batch,
        *,
        phase: str = "main",
        step: int = 0,
        generator: RandomSource | None = None,
    ) -> Loss:
        """The terms ``flow``, the integral's estimate in nats per element, and ``second_order`` where it is on."""
        batch, point, weight, terms = self.draw(batch, generator, networks)
        xt = batch.cond.real(point.xt)
        if self.second_order:
            output, velocity, divergence = self._with_divergence(
                networks, xt, point.t, batch.cond, batch.loss_mask, generator
            )
            residual = self.residual(velocity, divergence, point, batch.loss_mask)
        else:
            output, residual = self.output(networks, xt, point.t, batch.cond), None
        error = squared_error(output, self.prediction.target(point, self.path), batch.loss_mask)
        error = self.likelihood_weight(point.t).to(error) * error
        if networks.main.training:
            self.times.record(point.t, error.detach())
        if batch.weight is not None:
            weight = weight * batch.weight
        weight = weight.to(error)
        parts = {"flow": weight * error}
        if residual is not None:
            d = _elements(xt, batch.loss_mask)
            factor = weight * self.likelihood_weight(point.t).to(error)
            parts["second_order"] = self.second_order * factor * (residual / d).square()
        return self.total({**parts, **terms})

    def residual(
        self,
        velocity: Float[Tensor, "b *d"],
        divergence: Float[Tensor, " b"],
        point: Point,
        keep: Tensor | None = None,
    ) -> Float[Tensor, " b"]:
        """R, in the units of the output: on average over (x0, x1) given x_t it is 0 at the exact field.

        The squared error in it carries no gradient, the divergence does.
        """
        alpha, sigma, _, d_sigma = self.affine.coefficients(point.t)
        ratio = (alpha / self.affine.wronskian(point.t)).to(velocity)
        squared = squared_error(velocity.detach(), point.vt, keep, "sum")
        scale = self.prediction.velocity_factor(point.t, self.affine).rsqrt().to(velocity)
        flat = d_sigma.to(velocity) * _elements(velocity, keep)
        return scale * (sigma.to(velocity) * divergence - flat - ratio * squared)

    def _with_divergence(
        self, networks: Networks, x: Tensor, t: Tensor, cond: Cond, keep: Tensor | None, generator: RandomSource | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The output, the velocity and its divergence over the elements that ``keep`` marks by one Rademacher probe,
        with the graph of a second derivative.
        """
        wanted = torch.is_grad_enabled()
        probe = rademacher_like(x, generator)
        if keep is not None:
            probe = probe.where(keep, probe.new_zeros(()))
        # Fused attention has no second derivative.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            x = x.detach().requires_grad_()
            output = self.output(networks, x, t, cond)
            velocity = self.prediction.to_velocity(output, x, t, self.path)
            (product,) = torch.autograd.grad(velocity, x, probe.to(velocity), create_graph=wanted)
            divergence = sum_per_sample(product * probe)
        found = output, velocity, divergence
        return found if wanted else (output.detach(), velocity.detach(), divergence.detach())


def _elements(x: Tensor, keep: Tensor | None) -> Tensor | float:
    """Elements of a sample that count."""
    return float(x[0].numel()) if keep is None else sum_per_sample(keep.expand_as(x).to(x.dtype)).clamp_min(1.0)
