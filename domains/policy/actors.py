"""Who acts in a rollout: a flow policy, the scripted expert of an environment, chance. One interface for all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from domains.policy.records import Decision
from flowkit.errors import UserError
from flowkit.random import mix_seed

if TYPE_CHECKING:
    import gymnasium

    from domains.policy.envs.experts import Expert
    from domains.policy.observations import ObservationLayout

#: Observations at which a policy decided, kept to time decisions at batch 1.
KEPT_OBSERVATIONS = 32


class Actor(ABC):
    """Acts in n environments at once; what it does in one must not depend on the others.

    The rollout calls :meth:`open` once, :meth:`reset` at each beginning of an episode, then :meth:`act`.
    """

    #: For tables.
    name: str = "policy"

    @abstractmethod
    def open(self, n: int, env: gymnasium.Env) -> None:
        """Make room for ``n`` environments like ``env``.

        Raises:
            UserError: the spaces of ``env`` do not fit.
        """

    @abstractmethod
    def reset(self, row: int, env: gymnasium.Env, seed: int) -> None:
        """An episode begins in environment ``row``; every draw of the episode is a function of ``seed``."""

    @abstractmethod
    def act(
        self, envs: Sequence[gymnasium.Env], observations: Sequence[Any], active: np.ndarray
    ) -> tuple[Sequence[Any], dict[int, Decision]]:
        """Actions by row (those of rows that are not ``active``, bool (n,), are ignored) and the plans made, by row.

        The step in the plans is not known here: the rollout fills it in.
        """


class FlowActor(Actor):
    """A :class:`~domains.policy.pipeline.FlowPolicy`: plans all environments that need a plan in one batch."""

    def __init__(self, policy: Any, name: str = "policy") -> None:
        self.policy, self.name = policy, name
        #: Some of the observations at which plans were made.
        self.kept: list[Any] = []

    def open(self, n: int, env: gymnasium.Env) -> None:
        check_spaces(self.policy.layout, int(np.size(self.policy.action_low)), env)
        self._space = env.observation_space
        self.kept, self._decisions, self._stride = [], 0, 1
        self._vector = self.policy.vector(n)

    def reset(self, row: int, env: gymnasium.Env, seed: int) -> None:
        self._vector.reset([row], [seed])

    def act(
        self, envs: Sequence[gymnasium.Env], observations: Sequence[Any], active: np.ndarray
    ) -> tuple[Sequence[Any], dict[int, Decision]]:
        filler = observations[int(np.flatnonzero(active)[0])]
        rows = [seen if on else filler for seen, on in zip(observations, active, strict=True)]
        actions = self._vector.act(batch_of(self._space, rows), active)
        last = self._vector.last
        planned = _row_indices(last.rows)
        sigmas = getattr(last, "sigma0", None)
        plans = {
            int(row): Decision(
                step=0,
                nfe=float(last.nfe[i]),
                network_calls=float(last.network_calls[i]),
                seconds=float(last.seconds),
                batch=len(planned),
                sigma=None if sigmas is None else float(sigmas[i]),
            )
            for i, row in enumerate(planned)
        }
        for row in plans:
            self._keep(observations[row])
        return actions, plans

    def _keep(self, observation: Any) -> None:
        """A few observations from all over the rollout: when full, every second goes and the pace halves."""
        if self._decisions % self._stride == 0:
            self.kept.append(deepcopy(observation))  # some environments reuse their arrays
            if len(self.kept) > KEPT_OBSERVATIONS:
                self.kept, self._stride = self.kept[::2], 2 * self._stride
        self._decisions += 1

    def seconds_alone(self, seed: int = 0) -> list[float]:
        """Seconds of a decision at batch 1, warm, at the kept observations (empty before a rollout)."""
        if not self.kept:
            return []
        alone = self.policy.vector(1)
        seconds = []
        for i, observation in enumerate([self.kept[0], *self.kept]):  # the first one warms up
            alone.reset([0], [mix_seed(seed, i)])
            alone.act(batch_of(self._space, [observation]), np.ones(1, bool))
            seconds.append(float(alone.last.seconds))
        return seconds[1:]


class ExpertActor(Actor):
    """The scripted expert of an environment: the ceiling of a table."""

    name = "expert"

    def __init__(self, env_id: str) -> None:
        self.env_id = env_id

    def open(self, n: int, env: gymnasium.Env) -> None:
        from domains.policy.envs.experts import expert_for

        # One an environment: an expert remembers where it is going.
        self._experts: list[Expert] = [expert_for(self.env_id) for _ in range(n)]

    def reset(self, row: int, env: gymnasium.Env, seed: int) -> None:
        self._experts[row].reset(env, np.random.default_rng(seed))

    def act(
        self, envs: Sequence[gymnasium.Env], observations: Sequence[Any], active: np.ndarray
    ) -> tuple[Sequence[Any], dict[int, Decision]]:
        rows = zip(self._experts, envs, observations, active, strict=True)
        return [expert.act(env, seen) if on else None for expert, env, seen, on in rows], {}


class RandomActor(Actor):
    """Actions drawn from the action space: the floor of a table."""

    name = "random"

    def open(self, n: int, env: gymnasium.Env) -> None:
        self._spaces = [deepcopy(env.action_space) for _ in range(n)]

    def reset(self, row: int, env: gymnasium.Env, seed: int) -> None:
        self._spaces[row].seed(seed % 2**32)

    def act(
        self, envs: Sequence[gymnasium.Env], observations: Sequence[Any], active: np.ndarray
    ) -> tuple[Sequence[Any], dict[int, Decision]]:
        return [space.sample() if on else None for space, on in zip(self._spaces, active, strict=True)], {}


def actor_of(policy: Any) -> Actor:
    """``policy`` itself if it is an :class:`Actor`, else a flow policy as one."""
    return policy if isinstance(policy, Actor) else FlowActor(policy)


def batch_of(space: gymnasium.Space, observations: Sequence[Any]) -> Any:
    """Observations of ``space`` stacked as a gymnasium vector environment gives them.

    Raises:
        UserError: one of them has another shape than ``space`` says.
    """
    from gymnasium.vector.utils import concatenate, create_empty_array

    # Without a check of the values: real environments leave their own boxes.
    try:
        return concatenate(space, list(observations), create_empty_array(space, n=len(observations)))
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise UserError(
            f"the environment gave an observation that is not of its own space, {space}: {error}"
        ) from error


def check_spaces(layout: ObservationLayout, size: int, env: gymnasium.Env, *, what: str = "the policy") -> None:
    """Refuse an environment whose observations or actions are not those of the policy.

    Args:
        layout: of the policy's observations.
        size: entries of its actions.
        env: to act in.
        what: does not fit, for the message.

    Raises:
        UserError: names the environment and what differs.
    """
    from gymnasium.spaces import Box

    name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    try:
        layout.check(env.observation_space)
    except UserError as error:
        raise UserError(f"{what} does not fit {name}: {error}") from None
    space = env.action_space
    if not isinstance(space, Box):
        raise UserError(f"{what} does not fit {name}: it gives numbers, the environment takes {space}")
    if int(np.prod(space.shape)) != size:
        raise UserError(
            f"{what} does not fit {name}: its actions have {size} entries, the environment's {np.prod(space.shape)}"
        )


def _row_indices(rows: Any) -> np.ndarray:
    rows = np.asarray(rows)
    return np.flatnonzero(rows) if rows.dtype == bool else rows
