"""Trained policies for users: ``FlowPolicy.from_pretrained("runs/my-run")`` in anybody's gymnasium loop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from domains.policy.noise import PlanNoise, standard_noise
from flowkit.errors import UserError
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.random import mix_seed
from flowkit.solvers.sampler import Sampler

if TYPE_CHECKING:
    from domains.policy.task import PolicyTask


@dataclass(frozen=True)
class Planned:
    """What the last call of :meth:`VectorPolicy.act` planned.

    Attributes:
        rows: (k,) numbers of the rows that got a new chunk, increasing; empty where all went on with an old one.
        nfe: (k,) evaluations of the flow's field.
        network_calls: (k,) calls of networks; both halves of guidance count.
        seconds: of the planning, all rows together.
        sigma0: (k,) predicted spread of the actions, or None where the model predicts none.
    """

    rows: np.ndarray
    nfe: np.ndarray
    network_calls: np.ndarray
    seconds: float
    sigma0: np.ndarray | None = None


_NOTHING = Planned(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64), 0.0)


class FlowPolicy:
    """A trained policy in one environment::

        policy = FlowPolicy.from_pretrained("runs/my-run")
        policy.reset(seed=0)
        observation, _ = env.reset()
        action = policy(observation)

    It keeps the last observations, plans a chunk of actions when it has none left, and hands them out one by one.

    Args:
        task: a trained :class:`PolicyTask`.
        sampler: how to solve.
        execute: actions of a chunk that are carried out before the next decision; None is what the task was given.

    Attributes:
        layout: how observations must look.
        environment: gymnasium id of the training data's environment, or "".
        history, horizon, execute: observations seen, actions of a chunk, and how many of them are carried out.
        action_low, action_high: (A,) bounds of the actions, float32; may be infinite.

    Raises:
        UserError: the task has seen no data, or ``execute`` is not in 1 .. horizon.
    """

    def __init__(self, task: PolicyTask, sampler: Sampler | None = None, *, execute: int | None = None) -> None:
        self.task, self.sampler = task.eval(), sampler or Sampler()
        self.layout, self.environment = task.normaliser.layout, task.environment
        self.history, self.horizon = task.history, task.horizon
        self.execute = task.execute if execute is None else execute
        if not 1 <= self.execute <= self.horizon:
            raise UserError(
                f"execute is {self.execute}: from 1 to {self.horizon} actions of a chunk can be carried out"
            )
        self.action_low = task.normaliser.action_low.cpu().numpy()
        self.action_high = task.normaliser.action_high.cpu().numpy()
        self._one: VectorPolicy | None = None
        self._episodes = 0

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | torch.device = "cpu",
        steps: int | None = None,
        eta: float | None = None,
        sampler: Sampler | None = None,
        execute: int | None = None,
    ) -> FlowPolicy:
        """A run folder, a pretrained name (``policy/...``) or a ``save_pretrained`` folder.

        Args:
            name: of the model.
            device: where it computes.
            steps, eta: see :meth:`with_sampler`.
            sampler: instead of the one that the model was saved with.
            execute: see :class:`FlowPolicy`.

        Raises:
            UserError: there is no such model, its files are damaged, it is no policy, or a value is out of range.
        """
        from flowkit.artifacts import load

        policy = load(name, device=device, sampler=sampler)
        if not isinstance(policy, cls):
            raise UserError(f"{name} is no policy: it is a model for {type(policy).__name__}")
        return cls(policy.task, policy.with_sampler(steps=steps, eta=eta), execute=execute)

    def with_sampler(self, *, steps: int | None = None, eta: float | None = None) -> Sampler:
        """This policy's sampler with some values changed.

        Args:
            steps: of the solver, the same everywhere; together with ``eta`` the most that are taken.
            eta: spread that one step may pass over, root mean square an element in normalised units: steps are chosen
                by the predicted spread. Needs a model that predicts one.

        Raises:
            UserError: a value is out of range, or the model predicts no spread.
        """
        if steps is not None and steps < 1:
            raise UserError(f"steps must be at least 1, not {steps}")
        if eta is None:
            return self.sampler if steps is None else replace(self.sampler, steps=steps, controller=None)
        from flowkit.solvers.variance_adaptive import VarianceAdaptive

        if not self.task.predicts_spread:
            raise UserError(
                f"eta chooses steps by a predicted spread, and this model ({type(self.task.objective).__name__}) "
                "predicts none: give steps"
            )
        most = steps or getattr(self.sampler.controller, "max_steps", self.sampler.steps)
        return replace(self.sampler, controller=VarianceAdaptive(eta=eta, max_steps=most))

    def vector(self, n: int) -> VectorPolicy:
        """The same policy for ``n`` environments side by side."""
        return VectorPolicy(self, n)

    def reset(self, *, seed: int | None = None) -> None:
        """An episode begins. ``seed`` decides all draws of it; None counts the episodes of this object from 0."""
        if self._one is None:
            self._one = self.vector(1)
        self._one.reset([0], [self._episodes if seed is None else seed])
        self._episodes += 1

    def __call__(self, observation: Any, *, seed: int | None = None) -> np.ndarray:
        """The next action (A,) float32 for an observation of the environment.

        ``seed`` begins an episode as :meth:`reset` does; without either, the first call begins one.

        Raises:
            UserError: the observation is not what the policy was trained on, or is not finite.
        """
        if self._one is None or seed is not None:
            self.reset(seed=seed)
        assert self._one is not None
        parts = self.layout.parts(observation)
        if not np.isfinite(parts["state"]).all():
            raise UserError(f"the observation is not finite: {_brief(parts['state'])}")
        action = self._one.follow({name: value[None] for name, value in parts.items()})[0]
        if not np.isfinite(action).all():
            raise UserError(
                f"the policy gave an action that is not finite: {_brief(action)}; its weights are damaged, its "
                "training diverged, or the solver's steps are too large"
            )
        return action

    @property
    def last(self) -> Planned:
        """What the last call planned: its rows are empty where the action came from an older chunk."""
        return _NOTHING if self._one is None else self._one.last


class VectorPolicy:
    """A policy in ``n`` environments; each row has its own history, chunk and seed, and ends when it likes.

    All rows without actions are planned in one batch. The noise of a plan is a function of the row's seed and the
    number of its decision, so a row acts alike whatever the others do.

    Args:
        policy: what acts.
        n: rows. They begin as if they had been reset with the seeds 0 .. n - 1.

    Attributes:
        last: what the last call planned.
    """

    def __init__(self, policy: FlowPolicy, n: int) -> None:
        if n < 1:
            raise UserError(f"a policy acts in at least one environment, not in {n}")
        self.policy, self.n, self.last = policy, n, _NOTHING
        self._device = policy.task.device
        # Then the noise can be drawn here, fast; the objective's own draw is the same law.
        objective = policy.task.objective
        self._starts_standard = (
            isinstance(objective, FlowMatching)
            and objective.source.standard_normal
            and policy.sampler.temperature == 1.0
        )
        history, spec = policy.history, policy.task.spec
        self._seen: dict[str, np.ndarray] = {"state": np.zeros((n, history, spec.state), np.float32)}
        for name, (height, width) in spec.images.items():
            self._seen[f"image/{name}"] = np.zeros((n, history, height, width, 3), np.uint8)
        self._chunk = np.zeros((n, policy.execute, policy.task.actions), np.float32)
        self._position = np.zeros(n, np.int64)
        self._decision = np.zeros(n, np.int64)
        self._fresh = np.ones(n, bool)
        self._seeds = [0] * n
        self.reset(range(n), range(n))

    def reset(self, rows: Sequence[int] | np.ndarray, seeds: Sequence[int] | np.ndarray) -> None:
        """Episodes begin in ``rows``, with one of ``seeds`` each: no history, no actions left."""
        if len(rows) != len(seeds):
            raise UserError(f"{len(rows)} rows begin an episode, and {len(seeds)} seeds are given: one a row")
        for row, seed in zip(rows, seeds, strict=True):
            if not 0 <= row < self.n:
                raise UserError(f"there is no row {row}: they go from 0 to {self.n - 1}")
            self._seeds[row] = int(seed)
            self._fresh[row], self._decision[row], self._position[row] = True, 0, self.policy.execute

    def act(self, observations: Any, rows: np.ndarray | None = None) -> np.ndarray:
        """One action a row.

        Args:
            observations: as a vector environment gives them: every part has n rows.
            rows: (n,) bool, which rows act; None means all. The others' observations may hold anything.

        Returns:
            (n, A) float32, within the bounds; zeros in rows that do not act.

        Raises:
            UserError: the observations are not what the policy was trained on.
        """
        parts = self.policy.layout.parts_batch(observations)
        if len(parts["state"]) != self.n:
            raise UserError(f"{len(parts['state'])} observations were given to {self.n} rows")
        return self.follow(parts, rows)

    def follow(self, parts: dict[str, np.ndarray], rows: np.ndarray | None = None) -> np.ndarray:
        """:meth:`act` for the parts of observations: ``state`` (n, S), ``image/<name>`` (n, height, width, 3)."""
        active = np.arange(self.n) if rows is None else np.flatnonzero(rows)
        fresh = active[self._fresh[active]]
        for name, seen in self._seen.items():
            new = parts[name]
            if self.policy.history > 1:
                seen[active, :-1] = seen[active, 1:]
                seen[fresh] = new[fresh, None]
            seen[active, -1] = new[active]
        self._fresh[active] = False
        wanting = active[self._position[active] >= self.policy.execute]
        self.last = self._plan(wanting) if len(wanting) else _NOTHING
        actions = np.zeros((self.n, self._chunk.shape[2]), np.float32)
        actions[active] = self._chunk[active, self._position[active]]
        self._position[active] += 1
        return actions

    def _plan(self, rows: np.ndarray) -> Planned:
        started = time.perf_counter()
        policy = self.policy
        seeds = [mix_seed(self._seeds[row], int(self._decision[row])) for row in rows]
        with torch.inference_mode():
            parts = {name: torch.from_numpy(seen[rows]).to(self._device) for name, seen in self._seen.items()}
            x0 = None
            if self._starts_standard:
                x0 = standard_noise(seeds, (policy.horizon, policy.task.actions)).to(self._device)
            plan = policy.task.plan(parts, sampler=policy.sampler, x0=x0, generator=PlanNoise(seeds))
            self._chunk[rows] = plan.actions[:, : policy.execute].cpu().numpy()
            sigma0 = None if plan.sigma0 is None else plan.sigma0.float().cpu().numpy()
        seconds = time.perf_counter() - started
        self._position[rows] = 0
        self._decision[rows] += 1
        return Planned(rows, plan.evaluations.cpu().numpy(), plan.network_calls.cpu().numpy(), seconds, sigma0)


def _brief(values: np.ndarray) -> str:
    shown = " ".join(f"{value:.3g}" for value in np.ravel(values)[:6])
    return f"[{shown}{' ...' if np.size(values) > 6 else ''}]"
