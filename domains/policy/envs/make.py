"""Making environments: every id gets ``info["success"]``, one-line errors, and the settings that its traps ask for."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import io
import os
import re
import sys
import warnings
from typing import Any, Literal

import numpy as np

from domains.policy.envs import ENVIRONMENTS, NO_GYMNASIUM, Entry, meta_world_entry, register, register_entry
from flowkit.config.plugins import one_line
from flowkit.errors import UserError, nearest

try:
    import gymnasium
except ImportError as missing:  # this module is imported where an environment is wanted
    raise UserError(NO_GYMNASIUM) from missing

Render = Literal["none", "human", "rgb_array"]
#: Ids of other packages: how they begin -> (module that registers them, extra, settings they need).
_FOREIGN: dict[str, tuple[str, str, dict[str, Any]]] = {
    # Without this setting an episode never ends.
    "PointMaze_": ("gymnasium_robotics", "envs", {"continuing_task": False}),
    "AntMaze_": ("gymnasium_robotics", "envs", {"continuing_task": False}),
    "Fetch": ("gymnasium_robotics", "envs", {}),
    "Adroit": ("gymnasium_robotics", "envs", {}),
    "FrankaKitchen": ("gymnasium_robotics", "envs", {}),
    "gym_pusht/": ("gym_pusht", "envs", {}),
}
_META_WORLD = re.compile(r"FlowKit/MetaWorld-([a-z-]+)-v0")


class ReportSuccess(gymnasium.Wrapper):
    """Puts ``info["success"]`` (bool) into every info: ``success`` or ``is_success`` of the environment, else whether
    it ended by itself with a reward above 0."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        return observation, {**info, "success": bool(np.any(info.get("success", info.get("is_success", False))))}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        success = info.get("success", info.get("is_success"))
        if success is None:
            success = terminated and float(reward) > 0
        return observation, reward, terminated, truncated, {**info, "success": bool(np.any(success))}


class ReadablePictures(gymnasium.Wrapper):
    """Says in one line why a picture could not be drawn (no screen, no graphics library)."""

    def render(self) -> Any:
        try:
            return self.env.render()
        except (UserError, gymnasium.error.ResetNeeded):
            raise
        except Exception as error:
            name = self.spec.id if self.spec is not None else type(self.unwrapped).__name__
            backend = os.environ.get("MUJOCO_GL", "not set")
            raise UserError(
                f"cannot draw {name}: {type(error).__name__}: {one_line(error)} (MUJOCO_GL is {backend}; on a machine "
                "without a screen install libegl1 for egl or libosmesa6 for osmesa, or go without pictures)"
            ) from error


def make_env(env_id: str, *, render: Render = "none", **kwargs: Any) -> gymnasium.Env:
    """Make an environment by its id, FlowKit's or any that gymnasium knows.

    Args:
        env_id: for example ``FlowKit/Fork-v0`` or ``PointMaze_UMaze-v3``; ``module:id`` imports ``module`` first.
        render: ``none``, ``human`` (a window) or ``rgb_array`` (pictures).
        kwargs: go to the environment.

    Raises:
        UserError: no such id, a package is missing, or an option is wrong.
    """
    register()
    if render != "none":
        _choose_backend()
    settings = _prepare(env_id)
    try:
        env = gymnasium.make(
            env_id, render_mode=None if render == "none" else render, disable_env_checker=True, **{**settings, **kwargs}
        )
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"cannot make {env_id}: {type(error).__name__}: {one_line(error)}") from error
    env = ReportSuccess(env)
    return env if render == "none" else ReadablePictures(env)


def spaces_of(env_id: str, **kwargs: Any) -> tuple[gymnasium.Space, gymnasium.Space]:
    """The observation space and the action space of an environment (which is made and closed)."""
    env = make_env(env_id, **kwargs)
    try:
        return env.observation_space, env.action_space
    finally:
        env.close()


def _prepare(env_id: str) -> dict[str, Any]:
    """Import what registers ``env_id``. Returns the settings it needs."""
    entry = ENVIRONMENTS.get(env_id)
    task = _META_WORLD.fullmatch(env_id)
    if entry is None and task:
        entry = meta_world_entry(task[1])
    if entry is not None:
        _check_packages(env_id, entry)
        if task and env_id not in gymnasium.registry:
            _register_task(env_id, task[1], entry)
        return {}
    if env_id in gymnasium.registry and not any(env_id.startswith(prefix) for prefix in _FOREIGN):
        return {}
    for prefix, (module, extra, settings) in _FOREIGN.items():
        if env_id.startswith(prefix):
            _check_packages(env_id, Entry("", packages=(module,), extra=extra))
            gymnasium.register_envs(sys.modules[module])
            if env_id in gymnasium.registry:
                return settings
    module, colon, name = env_id.partition(":")
    if colon:
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            raise UserError(f"{env_id}: there is no module {module!r}; install it, or leave the part before ':' out")
        try:
            importlib.import_module(module)
        except Exception as error:
            raise UserError(
                f"{env_id}: {module} cannot be imported: {type(error).__name__}: {one_line(error)}"
            ) from error
        if name in gymnasium.registry:
            return {}
    raise UserError(f"no environment {env_id!r}; {_nearest_id(name if colon else env_id)}")


def _register_task(env_id: str, task: str, entry: Entry) -> None:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    if f"{task}-v3" not in ALL_V3_ENVIRONMENTS:
        known = [f"FlowKit/MetaWorld-{name.removesuffix('-v3')}-v0" for name in ALL_V3_ENVIRONMENTS]
        raise UserError(f"no environment {env_id!r}; {nearest(env_id, known)}")
    register_entry(env_id, entry)


def _nearest_id(env_id: str) -> str:
    """The nearest of all ids, and the list of FlowKit's own."""
    guess = difflib.get_close_matches(env_id, list(gymnasium.registry), 1, 0.6)
    return f"{nearest(env_id, {*ENVIRONMENTS, *guess})}, and every id that gymnasium knows"


def _check_packages(env_id: str, entry: Entry) -> None:
    """Import what ``env_id`` needs, without the notices that packages print when they are imported."""
    missing = [name for name in entry.packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"{env_id} needs {' and '.join(missing)}, which is not installed: pip install 'flowkit-fm[{entry.extra}]'"
        )
    for name in entry.packages:
        try:
            with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(name)
        except Exception as error:
            backend = os.environ.get("MUJOCO_GL")
            hint = f" (MUJOCO_GL is {backend}: is that library there?)" if backend else ""
            raise UserError(
                f"{env_id} needs {name}, which does not load: {type(error).__name__}: {one_line(error)}{hint}"
            ) from error


def _choose_backend() -> None:
    """MuJoCo draws through EGL where there is no screen, unless the user chose otherwise.

    It looks when it is first imported, so this comes before. Without pictures the variable stays unset: a wrong one
    would keep MuJoCo from loading at all.
    """
    headless = not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if sys.platform == "linux" and headless:
        os.environ.setdefault("MUJOCO_GL", "egl")
