"""Flow matching: regress a network on the velocity of conditional paths.

With (x0, x1) from a coupling, t from a law of times and x_t = path.at(x0, x1, t), minimise E |v(x_t, t) - dx_t/dt|^2:
its gradient is that of the regression on the marginal field E[dx_t/dt | x_t]. Lipman et al. 2022, "Flow Matching for
Generative Modeling" (arXiv 2210.02747); with the linear path Liu et al. 2022, rectified flow (arXiv 2209.03003);
Albergo et al. 2023 (arXiv 2303.08797). A network may predict the data, the noise or the score instead: one squared
error serves all, in the terms of the prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowkit.cond import Cond
from flowkit.couplings.coupling import Batch, Coupling
from flowkit.couplings.given_pairs import GivenPairs
from flowkit.couplings.independent import Independent
from flowkit.errors import UserError
from flowkit.fields.field import Field
from flowkit.fields.network_field import NetworkField
from flowkit.fields.predictions import DataPrediction, Prediction, Velocity
from flowkit.nn.network import NetworkSpec
from flowkit.objectives.distance import Distance
from flowkit.objectives.objective import Loss, Networks, Objective
from flowkit.objectives.weighting import LossWeight
from flowkit.paths.linear import LinearPath
from flowkit.paths.path import Path, Point
from flowkit.random import RandomSource, uniform
from flowkit.solvers.solve import solve
from flowkit.solvers.solver import Solution
from flowkit.sources.gaussian import Gaussian
from flowkit.sources.source import Source
from flowkit.tensors import mean_per_sample, sum_per_sample
from flowkit.times.law import TimeLaw
from flowkit.times.laws import UniformTimes

if TYPE_CHECKING:
    from flowkit.solvers.sampler import Sampler


class FlowMatching(Objective):
    """The base objective of the kit.

    Args:
        path: where x_t lies.
        source: the law of x0.
        coupling: who is paired with whom.
        times: the law of training times.
        prediction: what the network predicts.
        drop_condition: chance that a sample's condition is replaced by its null, for classifier-free guidance; 0.1 is
            usual.
        drop_names: which conditions are dropped together; [] means all.
        error: ``output`` squares the error of what the network predicts, ``velocity`` that of the velocity it means
            (the two differ by a weight over time, which is infinite at an end for some predictions: then choose times
            that stay away from it).
        reduce: ``mean`` over the kept elements of a sample, or their ``sum``.
        distance: what is minimised instead of the square, such as ``PseudoHuber``; None is the square.
        weighting: weight of each sample by its own loss, such as ``RelativeLoss``; None weighs all alike. In training
            alone: the loss of an evaluation must tell how good a model is.

    Raises:
        UserError: a number out of its range, or a prediction that the source and the coupling make meaningless.
    """

    def __init__(
        self,
        *,
        path: Path = LinearPath(),  # noqa: B008  (stateless; recipes read the default from this line)
        source: Source = Gaussian(),  # noqa: B008
        coupling: Coupling = Independent(),  # noqa: B008
        times: TimeLaw = UniformTimes(),  # noqa: B008
        prediction: Prediction = Velocity(),  # noqa: B008
        drop_condition: float = 0.0,
        drop_names: list[str] | None = None,
        error: Literal["output", "velocity"] = "output",
        reduce: Literal["mean", "sum"] = "mean",
        distance: Distance | None = None,
        weighting: LossWeight | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 <= drop_condition < 1.0:
            raise UserError(f"drop_condition is a chance in [0, 1), not {drop_condition}")
        if error not in ("output", "velocity") or reduce not in ("mean", "sum"):
            raise UserError(f"error={error!r}, reduce={reduce!r}: known are output and velocity, mean and sum")
        self.path, self.source, self.times, self.prediction = path, source, times, prediction
        # A fresh module per object: the default of the signature is shared by all.
        self.coupling = Independent() if type(coupling) is Independent else coupling
        self.drop_condition, self.drop_names = drop_condition, tuple(drop_names or ())
        self.error = error
        self.reduce: Literal["mean", "sum"] = reduce
        self.distance, self.weighting = distance, weighting
        if (distance or weighting) and type(self).loss is not FlowMatching.loss:
            part = "distance" if distance else "weighting"
            raise UserError(f"{type(self).__name__} has a loss of its own and no use for {part}: leave it out")
        if distance is not None and distance.of_data and not isinstance(prediction, DataPrediction):
            raise UserError(
                f"{distance!r} compares data, and the network puts out {prediction!r}: set prediction to DataPrediction"
            )
        if distance is not None and (error != "output" or reduce != "mean"):
            raise UserError(
                f"{distance!r} is a mean over what the network puts out: leave error and reduce as they are"
            )
        if prediction.needs_independent_gaussian and not self.independent_gaussian:
            raise UserError(
                f"{type(prediction).__name__} means the score only with the source Gaussian and the coupling "
                f"Independent, not with {type(source).__name__} and {type(coupling).__name__}"
            )

    @property
    def independent_gaussian(self) -> bool:
        """True when scores may be read off the trained field."""
        return self.source.standard_normal and self.coupling.independent

    @property
    def capturable(self) -> bool:
        """See :class:`Objective`; couplings that pair on the host and time laws that learn from losses are not."""
        pairs = type(self.coupling) in (Independent, GivenPairs) and self.source.capturable
        return pairs and not isinstance(self.times, nn.Module)

    def needs(self) -> dict[str, NetworkSpec]:
        """One network of one state and one time, and what the coupling learns with."""
        return {"main": NetworkSpec(), **self.coupling.needs()}

    def pair(
        self, batch: Batch, generator: RandomSource | None, networks: Networks | None = None
    ) -> tuple[Batch, dict[str, Tensor]]:
        """The batch with x0 drawn and paired, its conditions dropped by chance, and the coupling's loss terms;
        ``networks`` are for couplings that learn.
        """
        if batch.x1 is None:
            raise UserError("flow matching needs data x1, and the task gave none")
        coupling = self.coupling
        if coupling.draws_x0 and batch.x0 is not None:
            raise UserError(
                f"the batch brings its own x0, which the coupling {type(coupling).__name__} would pass over: say "
                "coupling: GivenPairs"
            )
        if batch.x0 is None and not isinstance(coupling, GivenPairs):
            batch = batch.replace(x0=self.source.draw(batch.x1, batch.cond, generator))
        draw = coupling.pair(batch, generator, networks=networks, source=self.source)
        batch = draw.batch
        if self.drop_condition:
            names = self.drop_names or tuple(batch.cond)
            if not names:
                raise UserError(f"drop_condition={self.drop_condition:g}, but the task gives no condition to drop")
            assert batch.x1 is not None
            dropped = uniform((batch.x1.shape[0],), generator, device=batch.x1.device) < self.drop_condition
            batch = batch.replace(cond=batch.cond.drop(dropped, names))
        return batch, dict(draw.terms)

    def draw(
        self, batch: Batch, generator: RandomSource | None, networks: Networks | None = None
    ) -> tuple[Batch, Point, Tensor, dict[str, Tensor]]:
        """Everything random of one loss: the paired batch, a point of each path, the weight (b,) of its time, and the
        coupling's terms.
        """
        batch, terms = self.pair(batch, generator, networks)
        assert batch.x0 is not None
        assert batch.x1 is not None
        x1 = batch.x1
        times = self.times.draw(x1.shape[0], self.path, generator, device=x1.device)
        t = times.t.to(x1.dtype) if x1.dtype == torch.float64 else times.t
        return batch, self.path.at(batch.x0, x1, t), times.weight, terms

    def loss(
        self,
        networks: Networks,
        batch: Batch,
        *,
        phase: str = "main",
        step: int = 0,
        generator: RandomSource | None = None,
    ) -> Loss:
        """Mean over the batch of weight(t) times the squared error of each sample; the term is called ``flow``."""
        batch, point, weight, terms = self.draw(batch, generator, networks)
        xt = batch.cond.real(point.xt)
        error = self.error_at(self.output(networks, xt, point.t, batch.cond), xt, point, batch)
        if networks.main.training:
            self.record(point.t, error.detach())
        if batch.weight is not None:
            weight = weight * batch.weight
        if self.weighting is None or not networks.main.training:
            return self.total({"flow": weight.to(error) * error, **terms})
        own = self.weighting(error.detach())
        loss = self.total({"flow": weight.to(error) * own * error, **terms})
        return Loss(loss.total, {**loss.terms, "error": (weight.to(error) * error).detach()})

    def record(self, t: Float[Tensor, " b"], error: Float[Tensor, " b"]) -> None:
        """Tell the law of times, which may learn from it, the error at times ``t``."""
        self.times.record(t, error)

    def output(
        self, networks: Networks, x: Float[Tensor, "b *d"], t: Float[Tensor, " b"], cond: Cond
    ) -> Float[Tensor, "b *d"]:
        """What the network puts out at (x, t)."""
        return networks.main((x,), (t,), cond)["v"]

    def error_at(
        self, output: Float[Tensor, "b *d"], x: Float[Tensor, "b *d"], point: Point, batch: Batch
    ) -> Float[Tensor, " b"]:
        """The error of each sample; ``x`` is x_t as the network saw it."""
        target = self.prediction.target(point, self.path)
        if self.distance is not None:
            return self.distance(output, target, batch.loss_mask)
        error = squared_error(output, target, batch.loss_mask, self.reduce)
        if self.error == "velocity":
            error = error * self.prediction.velocity_factor(point.t, self.path).to(error)
        return error

    def total(self, terms: dict[str, Float[Tensor, " b"]]) -> Loss:
        """The sum of the means of ``terms``; beside them the coupling's report is logged."""
        size = next(iter(terms.values())).shape[0]
        told = {name: value.expand(size) for name, value in self.coupling.report().items()}
        return Loss(torch.stack([term.mean() for term in terms.values()]).sum(), {**terms, **told})

    def field(self, networks: Networks) -> NetworkField:
        """The trained velocity field."""
        return NetworkField(networks.main, self.path, self.prediction, independent_gaussian=self.independent_gaussian)

    def generate(
        self,
        networks: Networks,
        like: Float[Tensor, "b *d"],
        cond: Cond,
        *,
        sampler: Sampler,
        x0: Tensor | None = None,
        span: tuple[float, float] = (0.0, 1.0),
        generator: RandomSource | None = None,
        hooks: Sequence[Callable[..., Any]] = (),
    ) -> Solution:
        """Solve the field over ``span``; see :class:`Objective`.

        ``x0`` is a draw of the source where the span starts at 0, and the state itself where it starts elsewhere
        (inversion, stylisation).

        Raises:
            UserError: the span starts elsewhere than at 0 and no ``x0`` was given, a temperature was asked for beside
            a given ``x0``, or what :meth:`check_sampler` refuses.
        """
        self.check_sampler(sampler, span)
        state = self.beginning(like, cond, sampler=sampler, x0=x0, start=span[0], generator=generator)
        field: Field = self.field(networks)
        if sampler.guidance is not None:
            field = sampler.guidance.apply(field)
        return solve(
            field,
            state,
            solver=sampler.solver,
            controller=sampler.stepping(),
            span=span,
            cond=cond,
            max_evaluations=sampler.max_evaluations,
            generator=generator,
            hooks=hooks,
        )

    def beginning(
        self,
        like: Float[Tensor, "b *d"],
        cond: Cond,
        *,
        sampler: Sampler,
        x0: Tensor | None,
        start: float,
        generator: RandomSource | None,
    ) -> Float[Tensor, "b *d"]:
        """The state at t = ``start``, 0 in the padding; arguments and errors as of :meth:`generate`."""
        if x0 is None:
            if start != 0.0:
                raise UserError(f"sampling from t = {start:g} needs the state there: give x0")
            x0 = self.source.draw(like, cond, generator, temperature=sampler.temperature)
        elif sampler.temperature != 1.0:
            raise UserError(
                f"temperature {sampler.temperature:g} scales the draw of the source, and x0 was given: leave it at 1"
            )
        return cond.real(self.path.start(x0, cond) if start == 0.0 else x0)


def squared_error(
    output: Float[Tensor, "b *d"],
    target: Float[Tensor, "b *d"],
    keep: Tensor | None,
    reduce: Literal["mean", "sum"] = "mean",
) -> Float[Tensor, " b"]:
    """|output - target|^2 of each sample over the elements that ``keep`` marks: the one loss kernel of regressions."""
    error = output - target
    if keep is not None:
        # Before squaring: the derivative of a masked square is 2 * nan * 0 where the padding holds nan.
        error = error.where(keep, error.new_zeros(()))
    return mean_per_sample(error.square(), keep) if reduce == "mean" else sum_per_sample(error.square())
