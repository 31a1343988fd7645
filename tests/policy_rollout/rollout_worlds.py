"""Small environments with the habits that rollouts must survive, demonstrations, and untrained policies."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch

from domains.policy.data.demonstrations import Demonstrations
from domains.policy.envs.fork import STEPS, ForkBatch, expert_action
from domains.policy.episodes import Episodes
from domains.policy.models.mlp import ChunkMLP
from domains.policy.observations import ObservationLayout
from domains.policy.pipeline import FlowPolicy
from domains.policy.records import EpisodeRecord
from domains.policy.task import PolicyTask
from flowkit.config.plugins import Plugin
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.solvers.sampler import Sampler

plugin = Plugin(name="rollout_worlds", modules=(__name__,))


class Walk(gymnasium.Env):
    """A noisy walk on a line: it ends beyond +-1, with success on the right.

    Args:
        breaks: ``never``, ``sometimes`` (a quarter of the starts, at step 3) or ``always`` (at step 3), or ``reset``.
        sick: observations are NaN from this step on.
        lingers: success does not end the episode.
        pause: seconds a step takes.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    made = 0
    drawn = 0

    def __init__(
        self, *, breaks: str = "never", sick: int = 1 << 30, lingers: bool = False, pause: float = 0.0,
        render_mode: str | None = None,
    ) -> None:  # fmt: skip
        self.breaks, self.sick, self.lingers, self.pause, self.render_mode = breaks, sick, lingers, pause, render_mode
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.broken = self.over = False
        Walk.made += 1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        if self.broken or self.breaks == "reset":
            raise RuntimeError("reset of a broken walk")
        self.unlucky = self.breaks == "always" or (self.breaks == "sometimes" and self.np_random.integers(4) == 0)
        self.x, self.count, self.over = float(self.np_random.uniform(-0.3, 0.3)), 0, False
        return self.observe(), {}

    def observe(self) -> np.ndarray:
        x = np.nan if self.count >= self.sick else self.x
        return np.array([x, 0.05 * self.count], np.float32)

    def step(self, action: np.ndarray):
        assert action.shape == (1,)
        assert action.dtype == np.float32
        assert not self.over, "stepped after the end"
        time.sleep(self.pause)
        self.count += 1
        if self.unlucky and self.count == 3:
            self.broken = True
            raise RuntimeError("the walk\nfell apart")
        self.x += 0.1 * float(action[0]) + 0.1 * float(self.np_random.standard_normal())
        self.over = abs(self.x) > 1 and not self.lingers
        return self.observe(), self.x, self.over, False, {"success": self.x > 1}

    def render(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        Walk.drawn += 1
        pixels = np.full((33, 61, 3), 240, np.uint8)
        pixels[:, int(np.clip(30 + 30 * self.x, 0, 60))] = (200, 30, 30)
        return pixels


VARIANTS: dict[str, tuple[dict[str, Any], int | None]] = {
    "Walk": ({}, 60),
    "WalkEndless": ({"lingers": True}, None),
    "WalkBreaks": ({"breaks": "sometimes"}, 60),
    "WalkBroken": ({"breaks": "always"}, 60),
    "WalkUnmade": ({"breaks": "reset"}, 60),
    "WalkSick": ({"sick": 5}, 60),
    "WalkSlow": ({"pause": 0.01}, 60),
}
for name, (settings, limit) in VARIANTS.items():
    if f"FlowKitTests/{name}-v0" not in gymnasium.registry:
        gymnasium.register(f"FlowKitTests/{name}-v0", entry_point=Walk, kwargs=settings, max_episode_steps=limit)

WALK = "FlowKitTests/Walk-v0"
FORK = "FlowKit/Fork-v0"


class ForkDemonstrations(Demonstrations):
    """Forty episodes of the fork's expert, made in memory."""

    def episodes(self) -> Episodes:
        fork, rng, count = ForkBatch(), np.random.default_rng(0), 40
        seen, done = [fork.reset(count, rng)], []
        lane = fork.lanes[rng.integers(2, size=count)]
        for _ in range(STEPS):
            done.append(np.clip(expert_action(seen[-1], lane), -1, 1).astype(np.float32))
            seen.append(fork.step(done[-1]))
        return Episodes(
            observations={"state": np.stack(seen[:-1], 1).reshape(-1, 2)},
            actions=np.stack(done, 1).reshape(-1, 1),
            ends=np.arange(1, count + 1) * STEPS,
            layout=ObservationLayout((("", 2),)),
            action_low=np.full(1, -1.0, np.float32),
            action_high=np.full(1, 1.0, np.float32),
            environment=FORK,
        )


def fresh_policy(*, history: int = 1, actions: int = 1, nan: bool = False, steps: int = 3) -> FlowPolicy:
    """An untrained policy on two numbers: wild, but a function of what it sees and of its seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        task = PolicyTask(
            lambda spec: ChunkMLP(spec, width=32, depth=2),  # pyright: ignore[reportArgumentType]
            FlowMatching(),
            state=2,
            actions=actions,
            history=history,
        )
    unit = {"min": [-1.0, -1.0], "max": [1.0, 1.0], "mean": [0.0, 0.0], "std": [1.0, 1.0]}
    task.normaliser.adapt(
        {
            "environment": "",
            "layout": ObservationLayout((("", 2),)).to_json(),
            "state": unit,
            "action": {key: [value[0]] * actions for key, value in unit.items()},
            "action_low": [-1.0] * actions,
            "action_high": [1.0] * actions,
        }
    )
    if nan:
        with torch.no_grad():
            next(task.networks.parameters()).fill_(torch.nan)
    return FlowPolicy(task, Sampler(steps=steps))


def assert_same(some: Sequence[EpisodeRecord], others: Sequence[EpisodeRecord]) -> None:
    """The same episodes; sums of a network over another batch may round otherwise, so rewards within 1e-4."""
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        one_start, one_success, *one_rewards, one_length, one_mode, one_plans, one_failed = one.outcome()
        start, success, *rewards, length, mode, plans, failed = other.outcome()
        assert (one_start, one_success, one_length, one_mode, one_plans, one_failed) == (
            start, success, length, mode, plans, failed,
        )  # fmt: skip
        assert np.allclose(one_rewards, rewards, atol=1e-4)
