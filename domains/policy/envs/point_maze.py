"""Point mazes of gymnasium-robotics (MuJoCo): a ball is pushed through corridors to a goal, and the episode ends there.

FlowKit's ids pass ``continuing_task=False``, without which no episode ends, and add a maze with two equal ways round.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from flowkit.errors import UserError, nearest

#: 1 is a wall, r where one starts, g the goal. Both ways round are as long.
RING = ("1111111", "1000001", "1011101", "1r111g1", "1011101", "1000001", "1111111")
MAZES = ("umaze", "medium", "large", "ring")


def make_point_maze(*, maze: str = "umaze", render_mode: str | None = None, **kwargs: Any) -> gymnasium.Env:
    """A point maze. Observation: a dictionary of ``observation`` (position, velocity), ``achieved_goal`` and
    ``desired_goal`` (metres); action: a force in [-1, 1]^2; reward 1 within 0.45 of the goal.

    Args:
        maze: ``umaze``, ``medium``, ``large`` or ``ring``.
        render_mode: as in gymnasium.
        kwargs: go to gymnasium-robotics' ``PointMazeEnv``.

    Raises:
        UserError: no such maze.
    """
    from gymnasium_robotics.envs.maze import maps
    from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv

    if maze not in MAZES:
        raise UserError(f"no maze {maze!r}: {nearest(maze, MAZES)}")
    plans = {"umaze": maps.U_MAZE, "medium": maps.MEDIUM_MAZE, "large": maps.LARGE_MAZE, "ring": plan(RING)}
    settings = {"maze_map": plans[maze], "continuing_task": False, "reset_target": False, "width": 256, "height": 256}
    env = PointMazeEnv(**{**settings, **kwargs}, render_mode=render_mode)
    return RingRoute(env) if maze == "ring" else env


def plan(rows: tuple[str, ...]) -> list[list[int | str]]:
    """Rows of characters as gymnasium-robotics wants them: numbers for walls and ways, letters for the rest."""
    return [[int(cell) if cell.isdigit() else cell for cell in row] for row in rows]


class RingRoute(gymnasium.Wrapper):
    """Notes which way round the ball went: ``info["mode"]`` at a success is 0 (above) or 1 (below)."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self._route = -1
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        row, column = self.env.unwrapped.maze.cell_xy_to_rowcol(observation["achieved_goal"])  # pyright: ignore[reportAttributeAccessIssue]
        # The middle of the upper and of the lower corridor: who passes it goes that way, the last passing counts.
        if column == len(RING[0]) // 2:
            self._route = 0 if row < len(RING) // 2 else 1
        if info["success"] and self._route >= 0:
            info = {**info, "mode": self._route}
        return observation, reward, terminated, truncated, info


def distances(plan: list[list[Any]], goal: tuple[int, int]) -> np.ndarray:
    """Steps to ``goal`` from every cell over the four neighbours, (rows, columns) int; -1 where there is no way."""
    result = np.full((len(plan), len(plan[0])), -1)
    result[goal] = 0
    frontier = [goal]
    while frontier:
        following = []
        for row, column in frontier:
            for cell in neighbours(row, column):
                if plan[cell[0]][cell[1]] != 1 and result[cell] < 0:
                    result[cell] = result[row, column] + 1
                    following.append(cell)
        frontier = following
    return result


def neighbours(row: int, column: int) -> list[tuple[int, int]]:
    """The four cells beside one; a maze's rim is wall, so that none lies outside for a cell on the way."""
    return [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
