"""Environments that FlowKit knows: their ids, and which optional packages they need. Light until :func:`register`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One environment of FlowKit's.

    Args:
        entry_point: ``module:callable``, a string so that specifications can be written to JSON.
        kwargs: what the callable gets.
        steps: longest episode; None where the environment ends by itself.
        packages: modules it imports, all from ``extra``.
        extra: extra of flowkit-fm that installs them.
        modes: names of the ways to succeed that ``info["mode"]`` counts; empty where there is only one.
    """

    entry_point: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    packages: tuple[str, ...] = ()
    extra: str = "policy"
    modes: tuple[str, ...] = ()


NO_GYMNASIUM = "environments need gymnasium, which is not installed: pip install 'flowkit-fm[policy]'"
_HERE = "domains.policy.envs"
#: Tasks of Meta-World that are listed; its other tasks are registered when ``make_env`` is asked for them.
META_WORLD_TASKS = (
    "reach", "push", "pick-place", "door-open", "drawer-open", "drawer-close", "button-press-topdown", "window-open",
    "peg-insert-side",
)  # fmt: skip


def _fork(modes: int) -> Entry:
    names = ("left", "right") if modes == 2 else tuple(f"lane {k}" for k in range(modes))
    return Entry(f"{_HERE}.fork:Fork", {"modes": modes}, modes=names)


def _maze(steps: int, maze: str, modes: tuple[str, ...] = ()) -> Entry:
    packages = ("gymnasium_robotics", "mujoco")
    return Entry(f"{_HERE}.point_maze:make_point_maze", {"maze": maze}, steps, packages, "envs", modes)


def meta_world_entry(task: str) -> Entry:
    """The entry of one of Meta-World's tasks (name without the version). Its experts need 50 to 140 steps."""
    return Entry(f"{_HERE}.meta_world:make_meta_world", {"task": task}, 200, ("metaworld", "mujoco"), "envs")


def _cubes(cubes: str, steps: int) -> Entry:
    return Entry(f"{_HERE}.cubes:make_cubes", {"cubes": cubes}, steps, ("ogbench", "mujoco"), "ogbench")


#: id -> how it is made. Ids of other packages work as well (see :func:`domains.policy.envs.make.make_env`).
ENVIRONMENTS: dict[str, Entry] = {
    "FlowKit/Fork-v0": _fork(2),
    "FlowKit/Fork4-v0": _fork(4),
    "FlowKit/Fork8-v0": _fork(8),
    "FlowKit/PointMazeUMaze-v0": _maze(300, "umaze"),
    "FlowKit/PointMazeMedium-v0": _maze(600, "medium"),
    "FlowKit/PointMazeLarge-v0": _maze(800, "large"),
    "FlowKit/PointMazeRing-v0": _maze(400, "ring", ("above", "below")),
    **{f"FlowKit/MetaWorld-{task}-v0": meta_world_entry(task) for task in META_WORLD_TASKS},
    "FlowKit/PushT-v0": Entry(
        f"{_HERE}.push_t:make_push_t", {}, 300, ("gym_pusht", "pymunk", "pygame", "shapely"), "envs"
    ),
    "FlowKit/CubeSingle-v0": _cubes("single", 200),
    "FlowKit/CubeDouble-v0": _cubes("double", 500),
}  # fmt: skip


def register() -> None:
    """Make FlowKit's ids known to gymnasium; a second call changes nothing. Imports no simulator.

    Raises:
        UserError: gymnasium is not installed.
    """
    from flowkit.errors import UserError

    try:
        import gymnasium
    except ImportError as error:
        raise UserError(NO_GYMNASIUM) from error
    for env_id, entry in ENVIRONMENTS.items():
        if env_id not in gymnasium.registry:
            register_entry(env_id, entry)


def register_entry(env_id: str, entry: Entry) -> None:
    """Make one id known to gymnasium."""
    import gymnasium

    gymnasium.register(env_id, entry_point=entry.entry_point, kwargs=dict(entry.kwargs), max_episode_steps=entry.steps)
