"""Fork: the smallest task whose mean action is fatal. A lane ends at an obstacle; one passes it on either side.

Everything is numpy: :class:`ForkBatch` steps 20,000 forks at once, :class:`Fork` is the gymnasium environment.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from domains.policy.envs.fork_drawing import ForkDrawing
from flowkit.errors import UserError

STEPS = 26
FORWARD = 0.05  # progress of x in a step
SIDEWAYS = 0.12  # side step of action 1
START = 0.05  # starts lie within +-START
OBSTACLE = (0.7, 0.9)  # where the obstacle begins and ends
LANE = 0.35  # distance of the lanes from the middle
TOLERANCE = 0.1  # how far from a lane's middle an episode may end
TURN = (0.45, 0.25)  # the expert turns from x = .45 on, over .25
NOISE = 0.005  # of the expert, in units of y
_ROUNDING = 1e-9


def lanes(modes: int) -> np.ndarray:
    """Unit vectors to the lanes, shape (modes, sides): +1 and -1 for two, else ``modes`` points of the circle."""
    if modes == 2:
        return np.array([[1.0], [-1.0]])
    angles = 2 * np.pi * np.arange(modes) / modes
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def expert_action(observation: np.ndarray, lane: np.ndarray) -> np.ndarray:
    """What the expert does without noise, before the bounds: it keeps to the middle, then turns in one smooth sweep.

    Args:
        observation: (..., 1 + sides), x and the side position.
        lane: (..., sides), the unit vector of the chosen lane.

    Returns:
        (..., sides), in units of the action, not clipped.
    """
    x, side = observation[..., :1].astype(np.float64), observation[..., 1:].astype(np.float64)
    following = x + FORWARD
    r = np.clip((following - TURN[0]) / TURN[1], 0.0, 1.0)
    target = np.where(following <= TURN[0] + _ROUNDING, 0.8 * side, LANE * r * r * (3 - 2 * r) * lane)
    return (target - side) / SIDEWAYS


class ForkBatch:
    """``n`` forks in step with each other: the physics of :class:`Fork` without gymnasium.

    Args:
        modes: number of lanes, 2 to 8. Two lie left and right (one side coordinate); more lie on a circle around the
            way (two side coordinates).
        obstacle: half width (radius) of the obstacle, 0 (none) to 0.3.

    Attributes:
        position: (n, sides) side positions, float64.
        count: steps made, the same for all.
        collided: (n,) bool, ever in the obstacle.
    """

    def __init__(self, *, modes: int = 2, obstacle: float = 0.2) -> None:
        if not 2 <= modes <= 8:
            raise UserError(f"Fork has 2 to 8 modes, got modes={modes}")
        if not 0.0 <= obstacle <= 0.3:
            raise UserError(f"Fork's obstacle is 0 to 0.3 wide to each side (the lanes are at 0.35), got {obstacle}")
        self.modes, self.obstacle = modes, obstacle
        self.lanes = lanes(modes)
        self.sides = self.lanes.shape[1]
        self.count = 0
        self.position = np.zeros((0, self.sides))
        self.collided = np.zeros(0, bool)

    def reset(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Start ``n`` episodes; returns the observations (n, 1 + sides), float32."""
        self.position = rng.uniform(-START, START, (n, self.sides))
        self.collided = np.zeros(n, bool)
        self.count = 0
        return self.observe()

    @property
    def x(self) -> float:
        """How far they are."""
        return self.count * FORWARD

    def observe(self) -> np.ndarray:
        """Observations (n, 1 + sides), float32: x, then the side position."""
        return np.concatenate([np.full((len(self.position), 1), self.x), self.position], axis=1).astype(np.float32)

    def step(self, actions: np.ndarray) -> np.ndarray:
        """One step with actions (n, sides), clipped to [-1, 1]; returns the observations."""
        actions = np.clip(np.asarray(actions, np.float64).reshape(self.position.shape), -1.0, 1.0)
        self.position = self.position + SIDEWAYS * actions
        self.count += 1
        if OBSTACLE[0] - _ROUNDING <= self.x <= OBSTACLE[1] + _ROUNDING:
            self.collided |= np.linalg.norm(self.position, axis=1) < self.obstacle
        return self.observe()

    @property
    def lane(self) -> np.ndarray:
        """(n,) int, the lane each one is in (nearer than the tolerance), -1 for none."""
        distance = np.linalg.norm(self.position[:, None] - LANE * self.lanes, axis=2)
        nearest = distance.argmin(axis=1)
        return np.where(distance.min(axis=1) < TOLERANCE, nearest, -1)

    @property
    def success(self) -> np.ndarray:
        """(n,) bool: at the end, in a lane, never in the obstacle."""
        return (self.lane >= 0) & ~self.collided & (self.count >= STEPS)


class Fork(gymnasium.Env):
    """``FlowKit/Fork-v0``: observation (x, y), action the side step in [-1, 1]. With more modes (``FlowKit/Fork4-v0``,
    ``Fork8``) it is (x, y, z) and two side steps.

    An episode ends after 26 steps or in the obstacle. The reward is 1 at a success, else 0. ``info["success"]`` is
    always there; ``info["mode"]``, the lane, when a lane was reached.

    Args:
        modes: see :class:`ForkBatch`.
        obstacle: see :class:`ForkBatch`.
        render_mode: None or ``rgb_array``: (256, 256, 3) uint8.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (gymnasium's way)

    def __init__(self, *, modes: int = 2, obstacle: float = 0.2, render_mode: str | None = None) -> None:
        self.batch = ForkBatch(modes=modes, obstacle=obstacle)
        self.render_mode = render_mode
        reach = START + STEPS * SIDEWAYS
        low = np.array([0.0] + [-reach] * self.batch.sides, np.float32)
        high = np.array([STEPS * FORWARD + 0.01] + [reach] * self.batch.sides, np.float32)
        self.observation_space = spaces.Box(low, high, dtype=np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (self.batch.sides,), np.float32)
        self._drawing: ForkDrawing | None = None
        self._trail: list[np.ndarray] = []

    @property
    def modes(self) -> int:
        """Number of lanes."""
        return self.batch.modes

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        observation = self.batch.reset(1, self.np_random)[0]
        self._trail = [observation]
        return observation, {"success": False}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation = self.batch.step(np.asarray(action)[None])[0]
        self._trail.append(observation)
        collided = bool(self.batch.collided[0])
        ended = collided or self.batch.count >= STEPS
        success = bool(self.batch.success[0])
        info: dict[str, Any] = {"success": success}
        if success:
            info["mode"] = int(self.batch.lane[0])
        return observation, float(success), ended, False, info

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.render_mode != "rgb_array":
            return None
        if self._drawing is None:
            self._drawing = ForkDrawing(
                lanes=LANE * self.batch.lanes,
                tolerance=TOLERANCE,
                obstacle=self.batch.obstacle,
                span=OBSTACLE,
                length=STEPS * FORWARD,
            )
        return self._drawing.draw(np.array(self._trail), crashed=bool(self.batch.collided[0]))
