"""Constant acceleration flow: trajectories are parabolas with a learned initial velocity.

Two networks. The first learns the initial velocity, v(x_t, t) = E[h (x1 - x0) | x_t], on the parabolas that begin with
it; the second, told v0 = v(x0, 0) (without gradients), the acceleration that leads from there to x1,

    |a(x_t, t, v0) - (2 (x1 - x0) - 2 v0)|^2    on    x_t = (1 - t^2) x0 + t^2 x1 + (t - t^2) v0.

Trajectories that cross differ in v0, so a(., v0) need not average over them: pairs of a teacher are reproduced more
faithfully than by straight lines. N steps cost N + 1 network calls:

    x <- x + v0 dt + (t + dt / 2) a(x, t, v0) dt.

Backward in time the same from x1, with v0 = v(x1, 1). Park et al. 2024, "Constant Acceleration Flow" (arXiv
2411.00322). The field depends on where a trajectory began, so the marginals of rectified flow are not promised: train
on deterministic pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit.cond import Cond
from flowkit.couplings.coupling import Batch, Coupling
from flowkit.couplings.independent import Independent
from flowkit.errors import UserError
from flowkit.fields.field import Evaluation, Field
from flowkit.nn.network import Head, Network, NetworkSpec
from flowkit.objectives.distance import Distance, SquaredError
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.objective import Loss, Networks
from flowkit.objectives.phase import Phase
from flowkit.paths.constant_acceleration import ConstantAccelerationPath
from flowkit.random import RandomSource
from flowkit.solvers.euler import Euler
from flowkit.solvers.solve import solve
from flowkit.solvers.solver import Solution, Solver, Step, time_dtype
from flowkit.sources.gaussian import Gaussian
from flowkit.sources.source import Source
from flowkit.tensors import like
from flowkit.times.law import TimeLaw
from flowkit.times.laws import UniformTimes

if TYPE_CHECKING:
    from flowkit.solvers.sampler import Sampler

__all__ = ["ConstantAcceleration"]

_VELOCITY, _ACCELERATION = "velocity", "acceleration"


class ConstantAcceleration(FlowMatching):
    """Constant acceleration flow (CAF): parabolas with a learned initial velocity, for few-step sampling and inversion
    of a teacher's pairs.

    Args:
        speed: h: the initial velocity is h (x1 - x0). 1 keeps the speed, 1.5 slows down towards the data.
        velocity_at: train the velocity along the whole ``path``, as the released code does, or at the ``start`` alone,
            as the paper says (no inversion then).
        velocity_input: tell the acceleration the initial velocity; False only to see what that is good for.
        velocity_steps: first so many steps train the velocity alone, all others the acceleration alone; 0 trains both
            at once (their parameters are separate, but encoders of the condition learn from both).
        distance: what is minimised instead of the square, such as ``PseudoHuber`` or a plugin's (perceptual) one.
        source, coupling, times, drop_condition, drop_names: see :class:`FlowMatching`. ``flowkit reflow RUN
            --task.objective ConstantAcceleration`` trains it on pairs of RUN.

    Raises:
        UserError: a number out of its range.
    """

    def __init__(
        self,
        *,
        speed: float = 1.5,
        velocity_at: Literal["path", "start"] = "path",
        velocity_input: bool = True,
        velocity_steps: int = 0,
        distance: Distance | None = None,
        source: Source = Gaussian(),  # noqa: B008  (stateless; recipes read the default from this line)
        coupling: Coupling = Independent(),  # noqa: B008
        times: TimeLaw = UniformTimes(),  # noqa: B008
        drop_condition: float = 0.0,
        drop_names: list[str] | None = None,
    ) -> None:
        path = ConstantAccelerationPath(speed)
        super().__init__(
            path=path, source=source, coupling=coupling, times=times, drop_condition=drop_condition,
            drop_names=drop_names,
        )  # fmt: skip
        if velocity_at not in ("path", "start") or velocity_steps < 0:
            raise UserError(
                f"ConstantAcceleration: velocity_at={velocity_at!r}, velocity_steps={velocity_steps}: known are path "
                "and start, and at least 0"
            )
        self.parabola, self.speed, self.measure = path, speed, SquaredError() if distance is None else distance
        self.velocity_at: Literal["path", "start"] = velocity_at
        self.velocity_input, self.velocity_steps = velocity_input, velocity_steps

    @property
    def independent_gaussian(self) -> bool:
        """False: there is no velocity field of the state alone, hence no score."""
        return False

    @property
    def capturable(self) -> bool:
        """See :class:`flowkit.objectives.objective.Objective`; the stages differ."""
        return False

    def needs(self) -> dict[str, NetworkSpec]:
        """``main``, the velocity, and ``acceleration``, which reads the initial velocity as a second state."""
        # On pairs of a teacher the acceleration is near a multiple of its velocity: the same features, another head.
        acceleration = NetworkSpec(inputs=1 + self.velocity_input, heads=(Head("a"),), like="main")
        return {**super().needs(), "acceleration": acceleration}

    def phases(self) -> Sequence[Phase]:
        """Both at once, or the velocity first."""
        if not self.velocity_steps:
            return (Phase(),)
        mine = ("networks.by_name.acceleration.",)
        return (
            Phase(_VELOCITY, last_step=self.velocity_steps - 1, without=mine),
            Phase(_ACCELERATION, mine, first_step=self.velocity_steps),
        )

    def loss(
        self,
        networks: Networks,
        batch: Batch,
        *,
        phase: str = "main",
        step: int = 0,
        generator: RandomSource | None = None,
    ) -> Loss:
        """The terms ``velocity`` and ``acceleration``; in a stage of training only its own."""
        batch, point, weight, terms = self.draw(batch, generator, networks)
        x0, x1, t, keep = point.x0, point.x1, point.t, batch.loss_mask
        both = phase not in (_VELOCITY, _ACCELERATION) or not networks.main.training
        if batch.weight is not None:
            weight = weight * batch.weight
        parts: dict[str, Tensor] = {}
        if both or phase == _VELOCITY:
            begin = self.parabola.at(x0, x1, torch.zeros_like(t)) if self.velocity_at == "start" else point
            v = networks.main((batch.cond.real(begin.xt),), (begin.t,), batch.cond)["v"].to(x1.dtype)
            parts[_VELOCITY] = self._velocity_error(v, begin.xt, begin.t, x0, x1, keep)
        if both or phase == _ACCELERATION:
            with torch.no_grad():
                v0 = networks.main((batch.cond.real(x0),), (torch.zeros_like(t),), batch.cond)["v"].to(x1.dtype)
            xt = self.parabola.at(x0, x1, t, v0).xt
            seen = (batch.cond.real(xt), batch.cond.real(v0))[: 1 + self.velocity_input]
            a = networks[_ACCELERATION](seen, (t,), batch.cond)["a"].to(x1.dtype)
            parts[_ACCELERATION] = self._acceleration_error(a, xt, t, v0, x0, x1, keep)
        if networks.main.training:
            self.times.record(t, torch.stack([part.detach() for part in parts.values()]).sum(0))
        return self.total({**{name: weight.to(part) * part for name, part in parts.items()}, **terms})

    def _velocity_error(
        self, v: Tensor, xt: Tensor, t: Tensor, x0: Tensor, x1: Tensor, keep: Tensor | None
    ) -> Float[Tensor, " b"]:
        if not self.measure.of_data:
            return self.measure(v, self.parabola.initial_velocity(x0, x1), keep)
        # On the parabola of h (x1 - x0), x1 - x_t = (x1 - x0) (1 - t^2 - h (t - t^2)).
        s = like(t, xt)
        return self.measure(xt + v * ((1.0 - s * s) / self.speed - (s - s * s)), x1, keep)

    def _acceleration_error(
        self, a: Tensor, xt: Tensor, t: Tensor, v0: Tensor, x0: Tensor, x1: Tensor, keep: Tensor | None
    ) -> Float[Tensor, " b"]:
        if not self.measure.of_data:
            return self.measure(a, self.parabola.acceleration(x0, x1, v0), keep)
        s = like(t, xt)
        return self.measure(xt + v0 * (1.0 - s) + a * (0.5 * (1.0 - s * s)), x1, keep)

    def field(self, networks: Networks) -> NoReturn:  # pyright: ignore[reportIncompatibleMethodOverride]
        """There is none of the state and the time alone.

        Raises:
            UserError: always.
        """
        raise UserError(
            "ConstantAcceleration has no velocity field of the state alone (it depends on where a trajectory began): "
            "sample it, or train FlowMatching for a field, its likelihood or its pairs"
        )

    def check_sampler(self, sampler: Sampler, span: tuple[float, float] = (0.0, 1.0)) -> None:
        """Its own steps, on a grid, without guidance.

        Raises:
            UserError: anything else.
        """
        if sampler.guidance is not None:
            raise UserError(
                "ConstantAcceleration cannot be guided when it samples: train it on pairs of a guided teacher, and "
                "leave sampler.guidance out"
            )
        if not isinstance(sampler.solver, Euler):
            raise UserError(
                f"ConstantAcceleration takes steps along parabolas, not those of {type(sampler.solver).__name__}: set "
                "sampler.solver: Euler"
            )
        if sampler.stepping().plan(span) is None:
            raise UserError(
                f"ConstantAcceleration takes the steps of a grid: leave out sampler.controller "
                f"({type(sampler.controller).__name__})"
            )
        if span[0] != 0.0 and self.velocity_at == "start":
            raise UserError(
                f"ConstantAcceleration with velocity_at: start knows velocities at t = 0 alone, and was asked to begin "
                f"at t = {span[0]:g}: train it with velocity_at: path"
            )

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
        """N steps along parabolas in N + 1 network calls; over the span (1, 0) the noise of the state ``x0`` at t = 1.

        Raises:
            UserError: as :class:`FlowMatching`, and what :meth:`check_sampler` refuses.
        """
        self.check_sampler(sampler, span)
        state = self.beginning(like, cond, sampler=sampler, x0=x0, start=span[0], generator=generator)
        t = torch.full(state.shape[:1], span[0], dtype=time_dtype(state), device=state.device)
        first = cond.at(t, 0, generator)
        v0 = cond.real(networks.main((state,), (t,), first)["v"].to(state.dtype))
        field = _ParabolaField(networks[_ACCELERATION], v0, self.velocity_input, self.parabola)
        solution = solve(
            field, state, solver=_ParabolaStep(), controller=sampler.stepping(), span=span, cond=cond,
            max_evaluations=sampler.max_evaluations, generator=generator, hooks=hooks,
        )  # fmt: skip
        # The initial velocity is an evaluation and a call, too.
        solution.evaluations, solution.network_calls = solution.evaluations + 1, solution.network_calls + 1
        return solution


class _ParabolaField(Field):
    """dx/dt = v0 + t a(x, t, v0), with the head ``a``."""

    def __init__(self, network: Network, v0: Tensor, velocity_input: bool, path: ConstantAccelerationPath) -> None:
        self.network, self.v0, self.velocity_input, self.path = network, v0, velocity_input, path

    def __call__(self, x: Float[Tensor, "b *d"], t: Float[Tensor, " b"], cond: Cond | None = None) -> Evaluation:
        inputs = (x, self.v0) if self.velocity_input else (x,)
        a = self.network(inputs, (t,), Cond() if cond is None else cond)["a"].to(x.dtype)
        return Evaluation(self.v0 + like(t, x) * a, {"a": a})


class _ParabolaStep(Solver):
    """x + v dt + a dt^2 / 2: exact where the acceleration is constant."""

    order = 1
    evaluations = 1

    def step(
        self, field: Field, t0: Float[Tensor, " b"], t1: Float[Tensor, " b"], x: Float[Tensor, "b *d"],
        first: Evaluation, memory: Any, cond: Cond | None, *, size: float | None = None, estimate: bool = True,
    ) -> Step:  # fmt: skip
        """See :class:`flowkit.solvers.solver.Solver`."""
        dt = like(t1 - t0, x)
        return Step(x + dt * first.v + (0.5 * dt * dt) * first.heads["a"])
