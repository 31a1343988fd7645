"""Vectorised rollouts: many environments side by side, each with its own episodes, plans of all of them in one batch.

FlowKit steps the environments itself, one after the other, instead of through a vector environment: there an ended
environment resets itself and the next row belongs to nobody, here an episode ends with the step that ended it
(inclusive) and nothing follows. What happens in an episode is a function of its start and the seed alone, so the
episodes are the same with 1 environment and with 8, in any order, and after a resume.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from domains.policy.actors import Actor, actor_of
from domains.policy.records import Decision, EpisodeRecord, RolloutLog
from flowkit.config.plugins import one_line
from flowkit.errors import UserError
from flowkit.random import mix_seed

if TYPE_CHECKING:
    import gymnasium

#: First start of an evaluation, of a choice of settings, and of recorded demonstrations: they never overlap.
EVALUATION_STARTS, TUNING_STARTS, RECORDING_STARTS = 100_000, 200_000, 0
#: Steps after which an episode is cut off where the environment sets no limit of its own.
STEP_LIMIT = 10_000
#: Environments that break down one after the other before a rollout gives up.
BREAKDOWNS = 3


@dataclass
class Seat:
    """An environment and the episode that runs in it (``start`` None: none)."""

    env: gymnasium.Env
    start: int | None = None
    observation: Any = None
    step: int = 0
    reward: float = 0.0
    max_reward: float = -np.inf
    success: bool = False
    mode: int | None = None
    actions: list[np.ndarray] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)

    def begin(self, start: int) -> None:
        """Reset the environment with ``start`` as its seed."""
        self.start, self.step, self.reward, self.max_reward, self.success = start, 0, 0.0, -np.inf, False
        self.mode, self.actions, self.decisions = None, [], []
        self.observation, info = self.env.reset(seed=start)
        self.mode = _mode_of(info)

    def advance(self, action: Any) -> bool:
        """One step; True when it ended the episode (or reached success)."""
        self.observation, reward, terminated, truncated, info = self.env.step(action)
        self.step += 1
        self.reward += float(reward)
        self.max_reward = max(self.max_reward, float(reward))
        self.success = self.success or bool(np.any(info.get("success", False)))
        self.mode = _mode_of(info)
        if isinstance(action, np.ndarray):
            self.actions.append(action.astype(np.float64).ravel())
        return bool(terminated) or bool(truncated) or self.success

    def record(self, failed: str = "") -> EpisodeRecord:
        """The episode so far; a breakdown of the environment is no success."""
        assert self.start is not None
        return EpisodeRecord(
            start=self.start,
            success=self.success and not failed,
            reward=self.reward,
            max_reward=self.max_reward if self.step else 0.0,
            length=self.step,
            jerk=jerk(self.actions),
            mode=self.mode,
            decisions=tuple(self.decisions),
            failed=failed,
        )


def rollout(
    policy: Any,
    env_id: str,
    *,
    episodes: int = 50,
    seed: int = 0,
    envs: int = 8,
    first_start: int = EVALUATION_STARTS,
    starts: Sequence[int] | None = None,
    render: Literal["none", "human", "rgb_array"] = "none",
    step_limit: int | None = None,
    log: RolloutLog | None = None,
    on_episode: Callable[[EpisodeRecord], None] | None = None,
    on_step: Callable[[Seat], None] | None = None,
) -> list[EpisodeRecord]:
    """Let ``policy`` act in ``env_id``.

    Args:
        policy: a :class:`~domains.policy.pipeline.FlowPolicy` or an :class:`~domains.policy.actors.Actor`.
        env_id: a gymnasium id.
        episodes: how many; episode i resets its environment with the seed ``first_start + i``.
        seed: of the policy's own draws: the noise of a plan is a function of (seed, start, number of the plan).
        envs: environments side by side; changes the speed and nothing else.
        first_start: evaluation begins at 100000, which no recording and no choice of settings uses.
        starts: instead of ``episodes`` and ``first_start``.
        render: see :func:`domains.policy.envs.make.make_env`.
        step_limit: cut an episode off after so many steps, if the environment does not end it before (default 10,000).
        log: gets every episode as it ends; episodes that it holds already are not run again.
        on_episode: called with every episode that ran, as it ends.
        on_step: called after each reset and each step, for those who film.

    Returns:
        The records in the order of the starts, those from ``log`` included.

    Raises:
        UserError: unknown environment, spaces that do not fit, an action that is not finite, or an environment that
            breaks down again and again; episodes that ended before stay in ``log``.
    """
    wanted = list(range(first_start, first_start + episodes)) if starts is None else list(starts)
    if not wanted or envs < 1:
        raise UserError(f"a rollout needs an episode and an environment at least, not {len(wanted)} and {envs}")
    done = {s: r for s, r in (log.records if log else {}).items() if s in set(wanted)}
    pending = deque(start for start in dict.fromkeys(wanted) if start not in done)
    play = _Play(
        actor_of(policy), env_id, seed=seed, render=render, step_limit=step_limit, log=log, on_episode=on_episode,
        on_step=on_step,
    )  # fmt: skip
    try:
        done.update((record.start, record) for record in play.run(pending, min(envs, len(pending))))
    finally:
        play.close()
        if log is not None:
            log.close()
    return [done[start] for start in dict.fromkeys(wanted)]


class _Play:
    """The state of a rollout: its seats, and how many environments broke down in a row."""

    def __init__(
        self, actor: Actor, env_id: str, *, seed: int, render: Literal["none", "human", "rgb_array"],
        step_limit: int | None, log: RolloutLog | None, on_episode: Callable[[EpisodeRecord], None] | None,
        on_step: Callable[[Seat], None] | None,
    ) -> None:  # fmt: skip
        self.actor, self.env_id, self.seed, self.log = actor, env_id, seed, log
        self.render: Literal["none", "human", "rgb_array"] = render
        self.step_limit = step_limit or STEP_LIMIT
        self.on_episode, self.on_step = on_episode, on_step
        self.seats: list[Seat] = []
        self.breakdowns = 0

    def run(self, pending: deque[int], n: int) -> Iterable[EpisodeRecord]:
        """Run the starts of ``pending`` on ``n`` seats; yields episodes as they end."""
        if n == 0:
            return
        self.seats.append(Seat(self._make()))
        self.actor.open(n, self.seats[0].env)  # a misfit shows before the others are made
        self.seats += [Seat(self._make()) for _ in range(n - 1)]
        while True:
            for row, seat in enumerate(self.seats):
                while seat.start is None and pending:
                    yield from self._begin(row, seat, pending.popleft())
            active = np.array([seat.start is not None for seat in self.seats])
            if not active.any():
                return
            actions = self._decide(active)
            for row in np.flatnonzero(active):
                yield from self._step(self.seats[row], actions[int(row)])

    def close(self) -> None:
        """Close the environments, whatever state they are in."""
        for seat in self.seats:
            _close(seat.env)

    def _make(self) -> gymnasium.Env:
        from domains.policy.envs.make import make_env

        return make_env(self.env_id, render=self.render)

    def _begin(self, row: int, seat: Seat, start: int) -> Iterable[EpisodeRecord]:
        try:
            seat.begin(start)
        except UserError:
            raise
        except Exception as error:
            yield self._broke_down(seat, error)
            return
        # Not the start itself: the environment draws from a generator seeded with that.
        self.actor.reset(row, seat.env, mix_seed(self.seed, start))
        if self.on_step is not None:
            self.on_step(seat)

    def _decide(self, active: np.ndarray) -> Sequence[Any]:
        actions, plans = self.actor.act([s.env for s in self.seats], [s.observation for s in self.seats], active)
        for row, plan in plans.items():
            seat = self.seats[row]
            seat.decisions.append(replace(plan, step=seat.step, mode=seat.mode))
        return actions

    def _step(self, seat: Seat, action: Any) -> Iterable[EpisodeRecord]:
        action = _fitted(action, seat.env)
        if not np.all(np.isfinite(action)):
            if not _finite(seat.observation):
                yield self._broke_down(seat, ValueError("the environment's observation is not finite"))
                return
            raise UserError(
                f"the {self.actor.name} gave an action that is not finite (start {seat.start}, step {seat.step}): "
                f"{_brief(action)}; its weights are damaged or its training diverged"
            )
        try:
            ended = seat.advance(action)
        except UserError:
            raise
        except Exception as error:
            yield self._broke_down(seat, error)
            return
        if self.on_step is not None:
            self.on_step(seat)
        if ended or seat.step >= self.step_limit:
            self.breakdowns = 0
            yield self._finish(seat)

    def _finish(self, seat: Seat, failed: str = "") -> EpisodeRecord:
        record = seat.record(failed)
        seat.start = None
        if self.log is not None:
            self.log.add(record)
        if self.on_episode is not None:
            self.on_episode(record)
        return record

    def _broke_down(self, seat: Seat, error: Exception) -> EpisodeRecord:
        """Note the episode as failed and replace the environment; give up when it is one of too many in a row."""
        reason = f"{type(error).__name__}: {one_line(error)}".rstrip(": ")
        record = self._finish(seat, reason)
        self.breakdowns += 1
        if self.breakdowns >= BREAKDOWNS:
            kept = f"; the episodes done are in {self.log.path}, --resume goes on" if self.log is not None else ""
            raise UserError(
                f"{self.env_id} broke down in {self.breakdowns} episodes in a row, last at start {record.start}, "
                f"step {record.length}: {reason}{kept}"
            ) from error
        _close(seat.env)
        seat.env = self._make()
        return record


def jerk(actions: Sequence[np.ndarray]) -> float | None:
    """Mean of || a_{k+1} - 2 a_k + a_{k-1} || over an episode's actions, each (A,); None under three."""
    if len(actions) < 3:
        return None
    return float(np.linalg.norm(np.diff(np.stack(actions), n=2, axis=0), axis=1).mean())


def _fitted(action: Any, env: gymnasium.Env) -> Any:
    """The action in the shape and type of the environment's box."""
    from gymnasium.spaces import Box

    space = env.action_space
    return np.asarray(action, space.dtype).reshape(space.shape) if isinstance(space, Box) else action


def _mode_of(info: dict[str, Any]) -> int | None:
    """FlowKit's environments count their ways; what another one calls its mode may be anything."""
    mode = info.get("mode")
    return int(mode) if isinstance(mode, int | np.integer) and not isinstance(mode, bool) and mode >= 0 else None


def _finite(observation: Any) -> bool:
    if isinstance(observation, dict):
        return all(_finite(value) for value in observation.values())
    if isinstance(observation, tuple):
        return all(_finite(value) for value in observation)
    return bool(np.all(np.isfinite(observation)))


def _brief(action: Any) -> str:
    text = " ".join(f"{value:.3g}" for value in np.ravel(action)[:6])
    return f"[{text}{' ...' if np.size(action) > 6 else ''}]"


def _close(env: gymnasium.Env) -> None:
    """A broken environment may fail to close as well; that is no news."""
    import contextlib

    with contextlib.suppress(Exception):
        env.close()
