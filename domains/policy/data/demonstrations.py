"""What all recorded demonstrations share: splits by episode, windows, statistics of the training split."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from domains.policy.episodes import Episodes
from domains.policy.windows import Ends, WindowSamples, check_window
from flowkit.data import DataSource, Split
from flowkit.errors import UserError, nearest

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Demonstrations(DataSource):
    """Base of the adapters: a subclass says where episodes come from and writes :meth:`episodes`.

    Args:
        history: observations that a decision sees, the current one included.
        horizon: actions of a chunk.
        execute: actions of a chunk that are carried out before the next decision.
        validation: share of the episodes for validation, at least one episode where it is positive.
        test: the same for the test split.
        limit: take only the first so many episodes; 0 takes all.
        seed: of the division into splits.
        windows: which steps begin a window: ``all``, or ``executed`` (see :class:`WindowSamples`).
    """

    #: Terms of use and origin, shown by ``flowkit data stats``.
    licence: str = "unknown"
    fitting = ("history", "horizon", "execute")

    def __init__(
        self,
        *,
        history: int = 1,
        horizon: int = 16,
        execute: int = 8,
        validation: float = 0.05,
        test: float = 0.0,
        limit: int = 0,
        seed: int = 0,
        windows: Ends = "all",
    ) -> None:
        self.history, self.horizon, self.execute = history, horizon, execute
        self.windows: Ends = windows
        self.validation, self.test, self.limit, self.seed = validation, test, limit, seed

    @abstractmethod
    def episodes(self) -> Episodes:
        """All episodes in a fixed order. Called once; slow sources keep a cache of their own.

        Raises:
            UserError: the source is missing or broken.
        """

    @property
    def source(self) -> str:
        """Where the data comes from, in a few words."""
        return type(self).__name__

    @cached_property
    def recorded(self) -> Episodes:
        """The episodes, at most ``limit``."""
        check_window(history=self.history, horizon=self.horizon, execute=self.execute, ends=self.windows)
        if self.limit < 0:
            raise UserError(f"data.init_args.limit is {self.limit}: it is a number of episodes, or 0 for all")
        episodes = self.episodes()
        return episodes.take(range(self.limit)) if 0 < self.limit < len(episodes) else episodes

    @cached_property
    def divided(self) -> Mapping[Split, np.ndarray]:
        """Numbers of the episodes of every split, disjoint."""
        return self.recorded.split(validation=self.validation, test=self.test, seed=self.seed)

    def prepare(self) -> None:
        """Read (and cache) the episodes; returns at once when that was done."""
        _ = self.recorded

    def split(self, name: str) -> WindowSamples:
        """The windows of one split's episodes."""
        if name not in SPLITS:
            raise UserError(f"data has no split {name!r}: {nearest(name, SPLITS)}")
        return self._windows[name]

    @cached_property
    def _windows(self) -> Mapping[str, WindowSamples]:
        return {
            name: WindowSamples(
                self.recorded.take(numbers) if len(numbers) else None,
                history=self.history,
                horizon=self.horizon,
                execute=self.execute,
                ends=self.windows,
                name=name,
            )
            for name, numbers in self.divided.items()
        }

    def statistics(self) -> Mapping[str, Any]:
        """Plain numbers, names and lists.

        ``state`` and ``action`` (``min``, ``max``, ``mean``, ``std`` per entry, over the steps of the training split
        only), ``action_low`` and ``action_high`` (None for an entry without a bound), ``actions`` (entries),
        ``layout``, ``environment``, ``history``, ``horizon``, ``execute``; ``episodes`` and ``steps`` of all splits
        together, ``splits`` (episodes, steps and windows of each), ``lengths`` (of episodes), ``success`` (share, None
        where no episode says so), ``license`` and ``source``.
        """
        recorded, train = self.recorded, self.split("train").episodes
        lengths, known = recorded.lengths, recorded.successes[recorded.successes >= 0]
        return {
            "environment": recorded.environment,
            "source": self.source,
            "license": self.licence,
            "episodes": len(recorded),
            "steps": recorded.steps,
            "lengths": {
                "min": int(lengths.min()),
                "median": float(np.median(lengths)),
                "max": int(lengths.max()),
            },
            "success": round(float(known.mean()), 4) if len(known) else None,
            "splits": {
                name: {
                    "episodes": len(self.divided[name]),
                    "steps": int(lengths[self.divided[name]].sum()),
                    "windows": len(self.split(name)),
                }
                for name in SPLITS
            },
            "history": self.history,
            "horizon": self.horizon,
            "execute": self.execute,
            "layout": recorded.layout.to_json(),
            "actions": recorded.actions.shape[1],
            "action_low": _finite(recorded.action_low),
            "action_high": _finite(recorded.action_high),
            "state": _moments(np.asarray(train.observations["state"])),
            "action": _moments(train.actions),
        }


def _finite(bounds: np.ndarray) -> list[float | None]:
    """Bounds with None for infinite ones, which JSON cannot hold."""
    return [float(bound) if np.isfinite(bound) else None for bound in bounds]


def _moments(values: np.ndarray) -> dict[str, list[float]]:
    """Smallest, largest, mean and standard deviation of every column, in float64."""
    wide = values.astype(np.float64)
    moments = {"min": wide.min(axis=0), "max": wide.max(axis=0), "mean": wide.mean(axis=0), "std": wide.std(axis=0)}
    return {name: moment.tolist() for name, moment in moments.items()}
