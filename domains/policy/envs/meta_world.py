"""Meta-World (Sawyer arm, MuJoCo): its tasks as plain gymnasium environments, and its scripted policies as experts.

Meta-World's own ``reset(seed=...)`` does not choose the instance (where the object and the goal are), its observation
leaves its own space, and its specification cannot be written to JSON. Here the seed chooses the instance, the box is
wide, and the entry point is a string.
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from domains.policy.envs.experts import Expert
from flowkit.errors import UserError, nearest


class MetaWorld(gymnasium.Env):
    """One task of Meta-World. Observation (39,) float64: hand, gripper and objects now and a step ago, and the goal;
    action (4,): hand movement and gripper in [-1, 1]. Ends at a success; ``info["success"]`` is always there.

    Args:
        task: Meta-World's name without the version: ``reach``, ``door-open``, ...
        render_mode: None, ``human`` or ``rgb_array``.
        size: side of the pictures in pixels.
        camera: ``corner``, ``corner2``, ``corner3``, ``corner4``, ``topview``, ``behindGripper`` or ``gripperPOV``.
    """

    def __init__(
        self,
        *,
        task: str,
        render_mode: Literal["human", "rgb_array"] | None = None,
        size: int = 256,
        camera: str = "corner2",
    ) -> None:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        known = [name.removesuffix("-v3") for name in ALL_V3_ENVIRONMENTS]
        if task not in known:
            raise UserError(f"Meta-World has no task {task!r}: {nearest(task, known)}")
        self.task, self.camera = task, camera
        self.sawyer = ALL_V3_ENVIRONMENTS[f"{task}-v3"](
            render_mode=render_mode, camera_name=camera, width=size, height=size
        )
        # The goal belongs to the observation, and the instance is drawn from the simulator's own generator.
        self.sawyer.__dict__.pop("sawyer_observation_space", None)  # cached; observations are clipped to it
        self.sawyer._partially_observable = False
        self.sawyer._freeze_rand_vec = False
        self.sawyer._set_task_called = True
        self.sawyer.seeded_rand_vec = True
        self.render_mode = render_mode
        self.metadata = {"render_modes": ["human", "rgb_array"], "render_fps": self.sawyer.metadata["render_fps"]}
        self.observation_space = spaces.Box(-np.inf, np.inf, (39,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        # Every instance has a seed of its own, so that it does not depend on what came before it.
        self.sawyer.seed(int(self.np_random.integers(2**31)))
        self.sawyer._did_see_sim_exception = False
        observation, _ = self.sawyer.reset()
        return np.asarray(observation, np.float64), {"success": False}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        # The simulator refuses to go on after 500 steps; how long an episode may be is the registration's business.
        self.sawyer.curr_path_length = 0
        observation, reward, _, _, info = self.sawyer.step(np.clip(np.asarray(action, np.float32), -1.0, 1.0))
        success = bool(info["success"])
        return np.asarray(observation, np.float64), float(reward), success, False, {"success": success}

    def render(self) -> Any:
        picture = self.sawyer.render()
        # These two cameras hang upside down in Meta-World's models.
        return picture[::-1] if picture is not None and self.camera in ("corner", "corner2", "corner3") else picture

    def close(self) -> None:
        self.sawyer.close()


def make_meta_world(*, task: str, **kwargs: Any) -> gymnasium.Env:
    """Entry point of the ids ``FlowKit/MetaWorld-<task>-v0``; see :class:`MetaWorld`."""
    return MetaWorld(task=task, **kwargs)


class MetaWorldExpert(Expert):
    """The scripted policy that Meta-World ships for the task. No noise of its own."""

    def begin(self, env: gymnasium.Env) -> None:
        import warnings

        from metaworld.policies import ENV_POLICY_MAP

        # Its policies warn of every action that is clipped, which is how they are meant.
        warnings.filterwarnings("ignore", message="Constant", module="metaworld.policies")

        world = env.unwrapped
        assert isinstance(world, MetaWorld)
        self.policy = ENV_POLICY_MAP[f"{world.task}-v3"]()

    def choose(self, env: gymnasium.Env, observation: Any) -> np.ndarray:
        return np.asarray(self.policy.get_action(observation))
