"""CaLMFlow: flow matching as a causal language model over the points of a trajectory.

A path is cut at t_i = i / (T - 1), i = 0 .. T - 1. A causal network reads w_0 .. w_i and says w_{i+1}, or the velocity
there, so what it says may depend on the whole history (a Volterra equation) and not on the state alone. Next points
may be drawn through a Gaussian latent,

    latent = mean(w_0 .. w_i) + temperature * deviation(w_0 .. w_i) * e,    w_{i+1} = decoder(latent),

with the loss |w_{i+1} - decoder(latent)|^2 + kl KL(N(mean, deviation^2) || N(0, 1)), all sums over elements, divided
by the number of elements of a state that are real and kept. Sampling takes T - 1 calls. He et al. 2024, "CaLMFlow:
Volterra Flow Matching using Causal Language Models" (arXiv 2410.05292).

On straight conditional paths two points give x1 away, so the loss on given histories falls towards 0 while the first
step carries all that is random: judge by free-running samples alone.
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
from flowkit.nn.network import Head, NetworkSpec
from flowkit.nn.sequence import SequenceNetwork, deinterleave, interleave
from flowkit.objectives.flow_matching import FlowMatching, squared_error
from flowkit.objectives.objective import Loss, Networks
from flowkit.paths.linear import LinearPath
from flowkit.paths.path import Path
from flowkit.random import RandomSource, normal, normal_like
from flowkit.solvers.euler import Euler
from flowkit.solvers.solver import Solution, Status
from flowkit.sources.gaussian import Gaussian
from flowkit.sources.source import Source
from flowkit.tensors import like as over
from flowkit.tensors import sum_per_sample
from flowkit.times.grids import UniformGrid

if TYPE_CHECKING:
    from flowkit.solvers.sampler import Sampler

__all__ = ["CaLMFlow"]


class CaLMFlow(FlowMatching):
    """A causal transformer reads the trajectory so far and says its next point (CaLMFlow): sampling in T - 1 cached
    calls, with the condition in front; it has no velocity field.

    Args:
        points: T, points of a trajectory; a sample costs T - 1 calls, and ``sampler.steps`` must be T - 1.
        predicts: the ``next`` point, or the ``velocity`` that an Euler step leads there.
        latent: 0: the output is the conditional mean; else the size of the Gaussian latent that it is drawn through.
        kl: weight of the latent's divergence from N(0, 1).
        temperature: scale of the latent's deviation in sampling.
        trajectories: samples that are read and made together, their points in turn.
        noise: deviation of noise (1 - t) noise e that is added to the points.
        path, source, coupling, drop_condition, drop_names: see :class:`FlowMatching`.

    Raises:
        UserError: a number out of its range.
    """

    def __init__(
        self,
        *,
        points: int = 16,
        predicts: Literal["next", "velocity"] = "next",
        latent: int = 0,
        kl: float = 1.0,
        temperature: float = 1.0,
        trajectories: int = 1,
        noise: float = 0.0,
        path: Path = LinearPath(),  # noqa: B008  (stateless; recipes read the default from this line)
        source: Source = Gaussian(),  # noqa: B008
        coupling: Coupling = Independent(),  # noqa: B008
        drop_condition: float = 0.0,
        drop_names: list[str] | None = None,
    ) -> None:
        super().__init__(
            path=path, source=source, coupling=coupling, drop_condition=drop_condition, drop_names=drop_names
        )
        if predicts not in ("next", "velocity"):
            raise UserError(f"CaLMFlow: predicts={predicts!r}: known are next and velocity")
        if points < 2 or trajectories < 1 or latent < 0 or min(kl, temperature, noise) < 0.0:
            raise UserError(
                f"CaLMFlow: points {points} must be at least 2, trajectories {trajectories} at least 1, and latent "
                f"{latent}, kl {kl:g}, temperature {temperature:g} and noise {noise:g} not negative"
            )
        self.points, self.predicts, self.latent, self.kl = points, predicts, latent, kl
        self.temperature, self.trajectories, self.noise = temperature, trajectories, noise

    @property
    def independent_gaussian(self) -> bool:
        """False: there is no velocity field, hence no score."""
        return False

    @property
    def capturable(self) -> bool:
        """See :class:`flowkit.objectives.objective.Objective`."""
        return False

    def needs(self) -> dict[str, NetworkSpec]:
        """One network of whole trajectories."""
        order = NetworkSpec(heads=(Head("v"),), sequence=self.trajectories, latent=self.latent)
        return {"main": order, **self.coupling.needs()}

    def grid(self, device: torch.device | str = "cpu") -> Float[Tensor, " n"]:
        """t_0 .. t_{T-1}."""
        return torch.linspace(0.0, 1.0, self.points, device=device)

    def loss(
        self,
        networks: Networks,
        batch: Batch,
        *,
        phase: str = "main",
        step: int = 0,
        generator: RandomSource | None = None,
    ) -> Loss:
        """The terms ``flow`` and, with a latent, ``kl``, on given histories."""
        batch, terms = self.pair(batch, generator, networks)
        assert batch.x0 is not None
        assert batch.x1 is not None
        rows, p = batch.x1.shape[0], self.trajectories
        if rows % p:  # the last batch: rows again, without a weight of their own
            again = torch.arange(rows + -rows % p, device=batch.x1.device) % rows
            keep = None if batch.keep is None else batch.keep[again]
            batch = batch.replace(x0=batch.x0[again], x1=batch.x1[again], cond=batch.cond.take(again), keep=keep)
        assert batch.x0 is not None
        assert batch.x1 is not None
        grid = self.grid(batch.x1.device)
        at = [self.path.at(batch.x0, batch.x1, t.expand(batch.x1.shape[0])) for t in grid]
        w = torch.stack([point.xt for point in at], 1)
        if self.noise:
            fade = (1.0 - grid).to(w).reshape(1, -1, *[1] * (w.ndim - 2))
            w = w + self.noise * fade * normal_like(w, generator)
        padding = batch.cond.padding
        if padding is not None:
            w = w.where(padding[:, None], w.new_zeros(()))
        target = w[:, 1:] if self.predicts == "next" else torch.stack([point.vt for point in at[:-1]], 1)
        seen = interleave(w[:, :-1], p)
        times = grid[:-1].repeat_interleave(p).expand(seen.shape[0], -1)
        heads = self._network(networks)((seen,), (times,), batch.cond)
        out, divergence = self._point(networks, heads, 1.0, generator)
        out = deinterleave(out, p).to(target.dtype)
        keep = batch.loss_mask
        each = None if keep is None else keep[:, None].expand_as(target).flatten(0, 1)
        error = squared_error(out.flatten(0, 1), target.flatten(0, 1), each).unflatten(0, out.shape[:2]).mean(1)
        parts = {"flow": error}
        if divergence is not None:
            elements = (
                w[0, 0].numel() if keep is None else sum_per_sample(keep.expand_as(w[:, 0]).to(error)).clamp_min(1)
            )
            parts["kl"] = self.kl * deinterleave(divergence, p).mean(1).to(error) / elements
        parts = {name: part[:rows] for name, part in parts.items()}
        if batch.weight is not None:
            parts = {name: part * batch.weight[:rows].to(part) for name, part in parts.items()}
        return self.total({**parts, **terms})

    def _network(self, networks: Networks) -> SequenceNetwork:
        network = networks.main
        assert isinstance(network, SequenceNetwork)  # Networks.build has checked
        return network

    def _point(
        self,
        networks: Networks,
        heads: dict[str, Tensor],
        temperature: float,
        generator: RandomSource | None,
    ) -> tuple[Tensor, Tensor | None]:
        """The outputs of the points, and the divergence (b, n) of their latents."""
        if not self.latent:
            return heads["v"], None
        mean, variance = heads["mean"], heads["variance"]
        divergence = 0.5 * (mean.square() + variance - variance.log() - 1.0).sum(-1)
        latent = mean
        if temperature:
            # Rows first, whatever is interleaved: draws are keyed by them.
            drawn = normal(tuple(deinterleave(mean, self.trajectories).shape), generator, device=mean.device)
            latent = mean + temperature * variance.sqrt() * interleave(drawn, self.trajectories).to(mean.dtype)
        return self._network(networks).decode(latent), divergence

    def field(self, networks: Networks) -> NoReturn:  # pyright: ignore[reportIncompatibleMethodOverride]
        """There is none.

        Raises:
            UserError: always.
        """
        raise UserError(
            "CaLMFlow has no velocity field (its next point depends on the whole trajectory): sample it, or train "
            "FlowMatching for a field, its likelihood and ODE solvers"
        )

    def check_sampler(self, sampler: Sampler, span: tuple[float, float] = (0.0, 1.0)) -> None:
        """T - 1 even steps from 0 to 1, without guidance, controllers and solvers of equations.

        Raises:
            UserError: anything else.
        """
        if sampler.guidance is not None:
            raise UserError("CaLMFlow cannot be guided when it samples: leave sampler.guidance out")
        if sampler.controller is not None or sampler.steps != self.points - 1:
            given = sampler.controller or f"{sampler.steps} steps"
            raise UserError(
                f"CaLMFlow was built for {self.points} points, made in {self.points - 1} steps, not by {given}: set "
                f"sampler.steps to {self.points - 1}"
            )
        if not isinstance(sampler.solver, Euler) or not isinstance(sampler.grid, UniformGrid):
            raise UserError(
                f"CaLMFlow makes one point after the other at even times, not by {type(sampler.solver).__name__} on "
                f"{sampler.grid!r}: set sampler.solver: Euler and sampler.grid: UniformGrid"
            )
        if span != (0.0, 1.0):
            raise UserError(f"CaLMFlow samples from 0 to 1, not from {span[0]:g} to {span[1]:g}: it solves no equation")

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
        """Point after point, each read by the network before the next; see :class:`Objective`.

        Raises:
            UserError: as :class:`FlowMatching`, what :meth:`check_sampler` refuses, and hooks.
        """
        self.check_sampler(sampler, span)
        if hooks:
            raise UserError("CaLMFlow takes no steps of a solver, which hooks could watch: leave them out")
        w = self.beginning(like, cond, sampler=sampler, x0=x0, start=0.0, generator=generator)
        rows, p, network = w.shape[0], self.trajectories, self._network(networks)
        if rows % p:
            again = torch.arange(rows + -rows % p, device=w.device) % rows
            # A row that is there twice is read twice, and its copy left out.
            w, cond = w[again], cond.take(again)
        grid = self.grid(w.device)
        memory = network.begin(w.shape[0] // p, cond)
        for i in range(self.points - 1):
            times = grid[i].expand(w.shape[0] // p, p)
            heads, memory = network.extend(memory, (interleave(w[:, None], p),), (times,), cond)
            out = deinterleave(self._point(networks, heads, self.temperature, generator)[0], p)[:, 0].to(w.dtype)
            w = out if self.predicts == "next" else w + over(grid[i + 1] - grid[i].expand(w.shape[0]), w) * out
            w = cond.real(w)
        x, calls = w[:rows], self.points - 1

        def status() -> Tensor:
            finite = x.flatten(1).isfinite().all(1)
            return torch.where(finite, int(Status.OK), int(Status.NON_FINITE))

        return Solution.on_demand(
            x, evaluations=calls, network_calls=calls, accepted=calls, rejected=0, status=status, stopped_at=1.0
        )
