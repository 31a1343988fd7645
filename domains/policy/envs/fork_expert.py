"""The expert of the fork."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from domains.policy.envs.experts import Expert
from domains.policy.envs.fork import NOISE, SIDEWAYS, Fork, expert_action


class ForkExpert(Expert):
    """Chooses a lane by lot and turns into it just before the obstacle; see :func:`.fork.expert_action`."""

    default_noise = NOISE / SIDEWAYS

    def begin(self, env: gymnasium.Env) -> None:
        fork = env.unwrapped
        assert isinstance(fork, Fork)
        self.lane = fork.batch.lanes[self.rng.integers(fork.modes)]

    def choose(self, env: gymnasium.Env, observation: Any) -> np.ndarray:
        return expert_action(observation, self.lane)
