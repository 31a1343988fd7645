"""Demonstrations of a fork, made in memory: two lanes around an obstacle, chosen by lot at the start."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from domains.policy.data.demonstrations import Demonstrations
from domains.policy.episodes import Episodes
from domains.policy.models.mlp import ChunkMLP
from domains.policy.observations import ObservationLayout
from domains.policy.task import PolicyTask
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.objective import Objective

STEPS = 26


def fork_arrays(episodes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """States (episodes, STEPS, 2) and actions (episodes, STEPS, 1) of the expert of the fork."""
    rng = np.random.default_rng(seed)
    side, lane = rng.uniform(-0.05, 0.05, episodes), rng.choice([-1.0, 1.0], episodes)
    states, actions = [], []
    for step in range(STEPS):
        following = 0.05 * (step + 1)
        r = np.clip((following - 0.45) / 0.25, 0, 1)
        target = 0.8 * side if following <= 0.45 + 1e-9 else lane * 0.35 * r * r * (3 - 2 * r)
        action = np.clip(target - side + 0.005 * rng.standard_normal(episodes), -0.12, 0.12) / 0.12
        states.append(np.stack([np.full(episodes, 0.05 * step), side], 1))
        actions.append(action[:, None])
        side = side + 0.12 * action
    return np.stack(states, 1).astype(np.float32), np.stack(actions, 1).astype(np.float32)


class ForkToy(Demonstrations):
    """``count`` episodes; ``size`` > 0 adds a camera of that many pixels that sees where the agent is."""

    def __init__(self, *, count: int = 8, size: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count, self.size = count, size

    def episodes(self) -> Episodes:
        states, actions = (value.reshape(-1, value.shape[2]) for value in fork_arrays(self.count))
        observations, images = {"state": states}, ()
        if self.size:
            pictures = np.zeros((len(states), self.size, self.size, 3), np.uint8)
            rows = ((states[:, 1] + 0.5) * self.size).astype(int).clip(0, self.size - 1)
            columns = (states[:, 0] / 1.3 * self.size).astype(int).clip(0, self.size - 1)
            pictures[np.arange(len(states)), rows, columns] = 255
            observations["image/eye"], images = pictures, (("eye", self.size, self.size),)
        return Episodes(
            observations=observations,
            actions=actions,
            ends=np.arange(1, self.count + 1) * STEPS,
            layout=ObservationLayout((("position" if images else "", 2),), images),
            action_low=np.full(1, -1.0, np.float32),
            action_high=np.full(1, 1.0, np.float32),
        )


def small(objective: Objective | None = None, *, data: Demonstrations | None = None, **kwargs: Any) -> PolicyTask:
    """A small task, adapted to the toy's data unless ``data`` says otherwise."""
    torch.manual_seed(0)
    task = PolicyTask(
        lambda spec: ChunkMLP(spec, width=64, depth=2),  # pyright: ignore[reportArgumentType]
        objective or FlowMatching(),
        **{"state": 2, "actions": 1, **kwargs},
    )
    data = data or ForkToy(history=task.history, horizon=task.horizon, execute=task.execute)
    data.prepare()
    task.adapt(data)
    return task.eval()
