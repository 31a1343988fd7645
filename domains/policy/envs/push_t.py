"""PushT of gym-pusht (pymunk): a disc pushes a T-shaped block onto its mark.

The observation here is the one of Diffusion Policy's human demonstrations: nine points fixed to the block, then the
disc. (gym-pusht's own eight corners are other points.)
"""

from __future__ import annotations

import os
import sys
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

#: The nine points in the block's own coordinates (pixels, angle 0), measured from the recorded poses and points:
#: the median over 25,650 steps, which every second step meets to 1e-4 pixels.
POINTS = np.array(
    [
        [9.270, 90.041], [-60.983, -1.187], [60.913, -1.393], [-0.271, 25.544], [-14.065, 122.816],
        [39.003, 32.857], [-39.966, 32.730], [-16.824, 62.863], [23.541, -1.700],
    ]
)  # fmt: skip
SIZE = 512.0


def points_of(pose: np.ndarray) -> np.ndarray:
    """The nine points of block poses: (..., 3) x, y, angle -> (..., 9, 2), pixels."""
    cos, sin = np.cos(pose[..., 2, None]), np.sin(pose[..., 2, None])
    x = cos * POINTS[:, 0] - sin * POINTS[:, 1] + pose[..., 0, None]
    y = sin * POINTS[:, 0] + cos * POINTS[:, 1] + pose[..., 1, None]
    return np.stack([x, y], axis=-1)


def flat_observation(points: np.ndarray, disc: np.ndarray) -> np.ndarray:
    """Points (..., 9, 2) and the disc's position (..., 2) -> observations (..., 20), float32: x and y in turn."""
    points = np.asarray(points, np.float32)
    return np.concatenate([points.reshape(*points.shape[:-2], 18), np.asarray(disc, np.float32)], axis=-1)


class PushT(gymnasium.Wrapper):
    """``FlowKit/PushT-v0``. Observation (20,) float32: nine points of the block and the disc, in pixels of a 512 x 512
    field; action (2,): where the disc shall go. The reward is min(coverage / 0.95, 1).

    ``info``: ``success`` (more than 95 % of the mark is covered; the episode ends), ``coverage``, ``max_reward`` (the
    best so far: the usual score). ``reset(options={"state": (x, y, block x, block y, angle)})`` starts from a recorded
    state, exactly.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        # The block's points may lie a little beyond the field while its middle is inside.
        self.observation_space = spaces.Box(-SIZE, 2 * SIZE, (20,), np.float32)
        self._best = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        self.env.reset(seed=seed)
        if options and "state" in options:
            self._set_state(np.asarray(options["state"], np.float64))
        self._best = 0.0
        # Coverage counts from the first step on: at reset nothing has been pushed.
        return self._observe(), {"success": False, "coverage": 0.0, "max_reward": 0.0}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        _, reward, terminated, truncated, info = self.env.step(np.asarray(action, np.float64))
        self._best = max(self._best, float(reward))
        info = {
            "success": bool(info["is_success"]),
            "coverage": float(info["coverage"]),
            "max_reward": self._best,
        }
        return self._observe(), float(reward), bool(terminated), truncated, info

    def _observe(self) -> np.ndarray:
        world: Any = self.env.unwrapped
        pose = np.array([*world.block.position, world.block.angle])
        return flat_observation(points_of(pose), np.array(world.agent.position))

    def _set_state(self, state: np.ndarray) -> None:
        """The angle turns the block about its centre of mass and so moves its position: the angle goes first."""
        world: Any = self.env.unwrapped
        world.agent.position = state[:2].tolist()
        world.agent.velocity = (0.0, 0.0)
        world.block.angle = float(state[4])
        world.block.position = state[2:4].tolist()
        world.block.velocity, world.block.angular_velocity = (0.0, 0.0), 0.0
        world.space.step(world.dt)


def make_push_t(*, render_mode: str | None = None, **kwargs: Any) -> gymnasium.Env:
    """Entry point of ``FlowKit/PushT-v0``; see :class:`PushT`.

    Args:
        render_mode: as in gymnasium.
        kwargs: go to gym-pusht's ``PushTEnv`` (``damping``, ``visualization_width``, ...).
    """
    # pygame opens no window for pictures, but looks for a screen.
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    from gym_pusht.envs.pusht import PushTEnv

    sizes = {"visualization_width": 256, "visualization_height": 256}
    return PushT(PushTEnv(**{**sizes, **kwargs}, render_mode=render_mode or "rgb_array"))
