"""The expert of the point mazes: it walks from cell to cell down the distance to the goal."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from domains.policy.envs.experts import Expert
from domains.policy.envs.point_maze import distances, neighbours

_REACHED = 0.15  # how near a cell's middle counts as there
_PULL, _BRAKE = 10.0, 1.0


class MazeExpert(Expert):
    """Breadth-first distances, then a spring and a brake towards the next cell; equal ways are chosen by lot.

    Its usual noise (0.1 of the force) makes it stray, so that demonstrations show the way back.
    """

    default_noise = 0.1

    def begin(self, env: gymnasium.Env) -> None:
        self.maze = env.unwrapped.maze  # pyright: ignore[reportAttributeAccessIssue]
        self.goal: tuple[int, int] | None = None

    def choose(self, env: gymnasium.Env, observation: Any) -> np.ndarray:
        position, goal = observation["observation"][:2], observation["desired_goal"]
        goal_cell = self._cell(goal)
        if self.goal != goal_cell:
            self.goal = goal_cell
            self.distance = distances(self.maze.maze_map, goal_cell)
            self.target = self._cell(position)
        # Pushed far off its way it starts afresh from where it is.
        cell = self._cell(position)
        if abs(cell[0] - self.target[0]) + abs(cell[1] - self.target[1]) > 1:
            self.target = cell
        if self.target != goal_cell and np.linalg.norm(self._middle(self.target) - position) < _REACHED:
            ways = [n for n in neighbours(*self.target) if self.distance[n] >= 0]
            least = min(self.distance[n] for n in ways)
            best = [n for n in ways if self.distance[n] == least]
            self.target = best[self.rng.integers(len(best))]
        aim = goal if self.target == goal_cell else self._middle(self.target)
        force = _PULL * (aim - position) - _BRAKE * observation["observation"][2:]
        return np.clip(force, -1.0, 1.0)

    def _cell(self, position: np.ndarray) -> tuple[int, int]:
        row, column = self.maze.cell_xy_to_rowcol(position)
        return int(row), int(column)

    def _middle(self, cell: tuple[int, int]) -> np.ndarray:
        return self.maze.cell_rowcol_to_xy(np.array(cell))
