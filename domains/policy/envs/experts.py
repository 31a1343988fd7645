"""Scripted experts: they show how a task is done, so that demonstrations need no people and no download."""

from __future__ import annotations

import fnmatch
import importlib
from abc import ABC, abstractmethod
from typing import Any

import gymnasium
import numpy as np

from flowkit.errors import UserError


class Expert(ABC):
    """A script for one environment. It may look at the simulator's state, not only at the observation.

    Args:
        noise: standard deviation of what it adds to its actions, in units of the action; None: ``default_noise``.
            Noise makes it leave its own track, so that the demonstrations show the way back.
    """

    #: Noise where none is asked for.
    default_noise: float = 0.0

    def __init__(self, *, noise: float | None = None) -> None:
        if noise is not None and not 0 <= noise < np.inf:
            raise UserError(f"the noise of an expert is 0 or more, got {noise}")
        self.noise = self.default_noise if noise is None else noise
        self.rng = np.random.default_rng(0)

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode (after ``env.reset``); all its chance comes from ``rng``."""
        self.rng = rng
        self.begin(env)

    def act(self, env: gymnasium.Env, observation: Any) -> np.ndarray:
        """The action (A,), float32, noise added, within the action space."""
        space = env.action_space
        assert isinstance(space, gymnasium.spaces.Box)
        action = np.asarray(self.choose(env, observation), np.float64)
        if self.noise:
            action = action + self.noise * self.rng.standard_normal(action.shape)
        return np.clip(action, space.low, space.high).astype(np.float32)

    def begin(self, env: gymnasium.Env) -> None:
        """Prepare for an episode: choose a mode, forget the last one."""

    @abstractmethod
    def choose(self, env: gymnasium.Env, observation: Any) -> np.ndarray:
        """The action without noise, (A,); it may lie beyond the bounds."""


#: Pattern of ids -> ``module:class`` of the expert (imported when it is asked for).
EXPERTS = {
    "FlowKit/Fork*-v0": "domains.policy.envs.fork_expert:ForkExpert",
    "FlowKit/PointMaze*-v0": "domains.policy.envs.maze_expert:MazeExpert",
    "PointMaze_*-v3": "domains.policy.envs.maze_expert:MazeExpert",
    "FlowKit/MetaWorld-*-v0": "domains.policy.envs.meta_world:MetaWorldExpert",
    "FlowKit/Cube*-v0": "domains.policy.envs.cubes:CubeExpert",
}


def expert_for(env_id: str, *, noise: float | None = None) -> Expert:
    """The scripted expert of an environment.

    Args:
        env_id: gymnasium's id.
        noise: see :class:`Expert`.

    Raises:
        UserError: it has none; the message lists the ids that have one.
    """
    for pattern, path in EXPERTS.items():
        if fnmatch.fnmatchcase(env_id, pattern):
            module, name = path.split(":")
            return getattr(importlib.import_module(module), name)(noise=noise)
    from domains.policy.envs import ENVIRONMENTS

    known = [name for name in ENVIRONMENTS if any(fnmatch.fnmatchcase(name, pattern) for pattern in EXPERTS)]
    raise UserError(f"{env_id} has no scripted expert; environments that have one: {', '.join(known)}")
