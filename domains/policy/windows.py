"""Windows of episodes: a short history of observations and the chunk of actions that follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from domains.policy.episodes import Episodes
from flowkit.data import RawBatch, Samples
from flowkit.errors import UserError

#: Which steps begin a window, see :class:`WindowSamples`.
Ends = Literal["all", "executed"]


class WindowSamples(Samples):
    """One sample a step of every episode.

    The sample of step i of an episode with L steps holds the observations i-history+1 .. i (where they begin before the
    episode, its first observation is repeated) and the actions i .. i+horizon-1 (where they go beyond the episode, its
    last action is repeated). The chunk starts at the current observation: action 0 is the one taken now, and
    ``execute`` of them are carried out before the next decision. Nothing crosses the border of an episode.

    Relation to the published sampler of Diffusion Policy: there a window of length W holds both the ``history``
    observations and the actions from the first of these on, and starts at s = -(history-1) .. L-W+(execute-1). Its
    current step is i = s+history-1 and W-history+1 actions lie ahead of it, our ``horizon``. So those windows are
    i = 0 .. L-horizon+execute-1: the chunk holds at most execute-1 repeats. ``ends="executed"`` takes exactly these
    (and always i = 0, where an episode is shorter). The default ``all`` takes every step i = 0 .. L-1, since a rollout
    may have to decide at any of them; ``real`` tells a loss which actions are repeats.

    Args:
        episodes: the recorded episodes; None for a split without any (its length is 0).
        history: observations of a window, at least 1.
        horizon: actions of a chunk, at least 1.
        execute: actions that are carried out, 1 .. horizon.
        ends: ``all`` steps, or ``executed``.

    Raises:
        UserError: a number is out of range.
    """

    def __init__(
        self,
        episodes: Episodes | None,
        *,
        history: int,
        horizon: int,
        execute: int,
        ends: Ends = "all",
        name: str = "",
    ) -> None:
        check_window(history=history, horizon=horizon, execute=execute, ends=ends)
        self._episodes, self.ends, self.name = episodes, ends, name
        self.history, self.horizon, self.execute = history, horizon, execute
        if episodes is None:
            lengths = starts = np.zeros(0, dtype=np.int64)
        else:
            lengths, starts = episodes.lengths, episodes.starts
        windows = lengths if ends == "all" else np.clip(lengths - horizon + execute, 1, lengths)
        self._episode = np.repeat(np.arange(len(lengths)), windows)
        self._step = np.arange(len(self._episode)) - np.repeat(np.cumsum(windows) - windows, windows)
        self._first = starts[self._episode]
        self._last = (starts + lengths - 1)[self._episode]
        self._back = np.arange(1 - history, 1)
        self._ahead = np.arange(horizon)

    @property
    def episodes(self) -> Episodes:
        """The recorded episodes.

        Raises:
            UserError: this split holds none.
        """
        if self._episodes is None:
            raise UserError("this split of the demonstrations is empty: raise its share, or record more episodes")
        return self._episodes

    def __len__(self) -> int:
        return len(self._episode)

    def batch(self, indices: Sequence[int]) -> RawBatch:
        """Gather.

        Returns:
            Tensors: ``state`` (b, history, S) float32, ``image/<key>`` (b, history, H, W, 3) uint8, ``actions``
            (b, horizon, A) float32 in the environment's units, ``real`` (b, horizon) bool, False where an action is a
            repeat beyond the end, ``episode`` (b,) int64, the number of the episode in :attr:`episodes`, and ``step``
            (b,) int64 in it.
        """
        chosen = np.asarray(indices, dtype=np.int64)
        episodes = self.episodes
        step, first, last = self._step[chosen], self._first[chosen], self._last[chosen]
        current = first + step
        seen = np.maximum(current[:, None] + self._back, first[:, None])
        ahead = current[:, None] + self._ahead
        raw: RawBatch = {
            key: torch.from_numpy(value.take(seen, axis=0)) for key, value in episodes.observations.items()
        }
        raw["actions"] = torch.from_numpy(episodes.actions.take(np.minimum(ahead, last[:, None]), axis=0))
        raw["real"] = torch.from_numpy(ahead <= last[:, None])
        raw["episode"] = torch.from_numpy(self._episode[chosen])
        raw["step"] = torch.from_numpy(step)
        return raw


def check_window(*, history: int, horizon: int, execute: int, ends: str = "all") -> None:
    """Raise ``UserError`` where the sizes of a window do not fit each other."""
    if history < 1:
        raise UserError(f"history is {history}: a window holds at least the current observation (1)")
    if horizon < 1:
        raise UserError(f"horizon is {horizon}: a chunk holds at least one action")
    if not 1 <= execute <= horizon:
        raise UserError(f"execute is {execute}: from 1 to horizon ({horizon}) actions of a chunk can be carried out")
    if ends not in ("all", "executed"):
        raise UserError(f"windows are {ends!r}: they may be all or executed")
