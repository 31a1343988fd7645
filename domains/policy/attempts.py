"""A scripted expert acts: attempt i of a seed is always the same, whoever makes it, in whatever order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flowkit.config.plugins import one_line
from flowkit.errors import UserError

if TYPE_CHECKING:
    import gymnasium

    from domains.policy.data.minari_writer import RecordedEpisode
    from domains.policy.envs.experts import Expert

#: Recordings start from seeds below this; evaluation starts from it on.
STARTS = 100_000
#: Starts of neighbouring seeds are so far apart.
_STRIDE = 10_007
#: An environment without an end of its own is a mistake.
_LONGEST = 20_000


@dataclass(frozen=True)
class Script:
    """Who acts where.

    Args:
        env_id: gymnasium's id.
        seed: of the whole recording; another seed gives other starts and other chances.
        noise: of the expert, in units of the action; None: its own.
        expert: makes the expert; None takes the scripted one (see :func:`.envs.experts.expert_for`).
    """

    env_id: str
    seed: int = 0
    noise: float | None = None
    expert: Callable[[], Expert] | None = None

    def start(self, index: int) -> int:
        """The seed of the environment at attempt ``index``: below 100,000, never the same twice in a recording."""
        return (self.seed * _STRIDE + index) % STARTS

    def make(self) -> tuple[gymnasium.Env, Expert]:
        """Make both.

        Raises:
            UserError: there is no such environment, it has no expert, or its actions are no vector.
        """
        from domains.policy.envs.make import make_env  # says in one line where gymnasium is missing

        env = make_env(self.env_id)
        import gymnasium

        from domains.policy.envs.experts import expert_for

        if not isinstance(env.action_space, gymnasium.spaces.Box):
            raise UserError(f"{self.env_id} has actions of the kind {env.action_space}: only boxes can be recorded")
        return env, self.expert() if self.expert is not None else expert_for(self.env_id, noise=self.noise)


def attempt(script: Script, index: int, env: gymnasium.Env, expert: Expert) -> RecordedEpisode:
    """Make attempt ``index`` (a function of the script and the index alone) in an environment that is reused.

    Raises:
        UserError: the environment or the expert breaks down, or the episode does not end.
    """
    try:
        return _attempt(script, index, env, expert)
    except UserError:
        raise
    except Exception as error:  # simulators raise whatever they like
        raise UserError(
            f"{script.env_id} broke down in attempt {index} (start {script.start(index)}): {type(error).__name__}: "
            f"{one_line(error)}"
        ) from error


def _attempt(script: Script, index: int, env: gymnasium.Env, expert: Expert) -> RecordedEpisode:
    from domains.policy.data.minari_writer import RecordedEpisode

    start = script.start(index)
    observation, info = env.reset(seed=start)
    expert.reset(env, np.random.default_rng([script.seed, index]))
    observations, actions, rewards, terminations, truncations = [observation], [], [], [], []
    success, ended = False, False
    while not ended:
        action = expert.act(env, observation)
        observation, reward, terminated, truncated, info = env.step(action)
        observations.append(observation)
        actions.append(np.array(action, copy=True))
        rewards.append(float(reward))
        terminations.append(bool(terminated))
        truncations.append(bool(truncated))
        success = success or bool(info["success"])
        ended = terminated or truncated
        if len(actions) >= _LONGEST and not ended:
            raise UserError(f"{script.env_id} did not end within {_LONGEST} steps: give it max_episode_steps")
    return RecordedEpisode(
        observations=_stack(observations),
        actions=np.stack(actions),
        rewards=np.array(rewards),
        terminations=np.array(terminations),
        truncations=np.array(truncations),
        seed=start,
        success=success,
    )


def attempts(script: Script, indices: Iterable[int], *, workers: int = 1) -> Generator[tuple[int, RecordedEpisode]]:
    """Make attempts and give them out in the order of ``indices``; close the iterator to stop before their end.

    Args:
        script: who acts where.
        indices: which attempts; may be endless.
        workers: processes that share the work; the result does not depend on it.

    Raises:
        UserError: see :meth:`Script.make`.
    """
    if workers < 1:
        raise UserError(f"workers is the number of processes, at least 1, got {workers}")
    # Made here as well when others act, so that mistakes show before processes start.
    env, expert = script.make()
    try:
        if workers == 1:
            for index in indices:
                yield index, attempt(script, index, env, expert)
            return
    finally:
        env.close()
    yield from _shared(script, indices, workers)


def _shared(script: Script, indices: Iterable[int], workers: int) -> Generator[tuple[int, RecordedEpisode]]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    # Fresh processes: a forked one would share the parent's threads' locks and its graphics.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(script,))
    waiting: deque[tuple[int, Any]] = deque()
    try:
        for index in indices:
            waiting.append((index, pool.submit(_work, index)))
            if len(waiting) > 4 * workers:
                first, future = waiting.popleft()
                yield first, future.result()
        for index, future in waiting:
            yield index, future.result()
    except BrokenProcessPool:
        raise UserError(
            "a worker process was ended from outside, perhaps for want of memory: ask for fewer workers; the same "
            "command goes on with what was kept"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_mine: tuple[Script, gymnasium.Env, Expert] | None = None


def _begin(script: Script) -> None:
    """What a worker does first."""
    global _mine
    import multiprocessing
    import os
    import signal

    # A terminal sends an interrupt to all; the parent decides what comes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        # A parent that was killed cannot tell its workers to stop.
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    _mine = (script, *script.make())


def _work(index: int) -> RecordedEpisode:
    assert _mine is not None
    script, env, expert = _mine
    return attempt(script, index, env, expert)


def _stack(observations: list[Any]) -> Any:
    """Rows of nested observations -> nested arrays with the rows first."""
    first = observations[0]
    if isinstance(first, dict):
        return {key: _stack([row[key] for row in observations]) for key in first}
    if isinstance(first, tuple):
        return tuple(_stack(list(rows)) for rows in zip(*observations, strict=True))
    return np.stack([np.asarray(row) for row in observations])
