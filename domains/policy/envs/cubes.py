"""OGBench's cubes: a robot arm (UR5e, MuJoCo) takes a cube to its mark, on the table or on another cube.

It has an extra of its own: it brings dm_control, which insists on one MuJoCo. Together with Meta-World (MuJoCo 3.3.0)
ask for both at once, ``pip install 'flowkit-fm[envs,ogbench]'``, and pip takes dm_control 1.0.28, which fits.
"""

# OGBench is an extra of its own ([ogbench]): the checker may not find it.
# pyright: reportMissingImports=false
from __future__ import annotations

import os
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from domains.policy.envs.experts import Expert
from flowkit.errors import UserError

#: How OGBench centres and scales positions (metres) in its observations; the mark gets the same.
_CENTRE, _SCALE = np.array([0.425, 0.0, 0.0]), 10.0


class Cubes(gymnasium.Wrapper):
    """One cube to move to a random mark.

    Observation (float64): OGBench's state (arm 19, then 9 a cube), then which cube (one-hot) and its mark (3 scaled
    coordinates, cosine and sine of its angle). Action (5,) in [-1, 1]: movement of the hand, its turn, the gripper.
    Ends at a success (within 4 cm, the gripper may still hold it); reward 1 there, else 0.
    """

    def __init__(self, env: gymnasium.Env, cubes: int) -> None:
        super().__init__(env)
        self.cubes = cubes
        self.info: dict[str, Any] = {}
        self.observation_space = spaces.Box(-np.inf, np.inf, (19 + 9 * cubes + cubes + 5,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (5,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        observation, self.info = self.env.reset(seed=seed)
        return self._observe(observation), {"success": False}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        action = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        observation, _, _, truncated, self.info = self.env.step(action)
        success = bool(self.info["success"])
        return self._observe(observation), float(success), success, truncated, {"success": success}

    def close(self) -> None:
        world: Any = self.env
        if world._renderer is not None:
            world._renderer.close()
            world._renderer = None
        super().close()

    def _observe(self, observation: np.ndarray) -> np.ndarray:
        chosen = np.eye(self.cubes)[int(self.info["privileged/target_block"])]
        place = (self.info["privileged/target_block_pos"] - _CENTRE) * _SCALE
        angle = float(self.info["privileged/target_block_yaw"][0])
        return np.concatenate([observation, chosen, place, [np.cos(angle), np.sin(angle)]]).astype(np.float64)


def make_cubes(
    *, cubes: Literal["single", "double"] = "single", render_mode: str | None = None, **kwargs: Any
) -> gymnasium.Env:
    """Entry point of ``FlowKit/CubeSingle-v0`` and ``FlowKit/CubeDouble-v0``; see :class:`Cubes`.

    Args:
        cubes: how many lie on the table.
        render_mode: as in gymnasium.
        kwargs: go to OGBench's ``CubeEnv``.

    Raises:
        UserError: another number of cubes.
    """
    import warnings

    with warnings.catch_warnings():
        # dm_control looks for a screen when it is imported, and says so where there is none.
        warnings.simplefilter("ignore")
        from ogbench.manipspace.envs.cube_env import CubeEnv

    if render_mode is not None:
        _choose_context()
    numbers = {"single": 1, "double": 2}
    if cubes not in numbers:
        raise UserError(f"cubes is single or double, got {cubes!r}")
    settings = {"width": 256, "height": 256, **kwargs}
    env = CubeEnv(cubes, mode="data_collection", render_mode=render_mode, **settings)
    env.metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    return Cubes(env, numbers[cubes])


def _choose_context() -> None:
    """``mujoco.Renderer`` looks at MUJOCO_GL when MuJoCo is first imported; that may have been before it was set."""
    from mujoco import gl_context

    if os.environ.get("MUJOCO_GL") == "egl":
        from mujoco.egl import GLContext

        gl_context.GLContext = GLContext


class CubeExpert(Expert):
    """OGBench's oracle for one cube: above it, down, grasp, up, above the mark, down."""

    def begin(self, env: gymnasium.Env) -> None:
        from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle

        self.cubes = env
        while not isinstance(self.cubes, Cubes):
            assert isinstance(self.cubes, gymnasium.Wrapper)
            self.cubes = self.cubes.env
        self.oracle = CubeMarkovOracle(env=self.cubes.env, max_step=1000)
        # The oracle draws a pose for afterwards from numpy's global state, which is not ours to move on.
        state = np.random.get_state()  # noqa: NPY002
        self.oracle.reset(None, self.cubes.info)
        np.random.set_state(state)  # noqa: NPY002

    def choose(self, env: gymnasium.Env, observation: Any) -> np.ndarray:
        assert isinstance(self.cubes, Cubes)
        return np.asarray(self.oracle.select_action(None, self.cubes.info))
