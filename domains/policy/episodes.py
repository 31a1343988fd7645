"""Recorded episodes as flat arrays with their ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from domains.policy.observations import ObservationLayout
from flowkit.data import Split
from flowkit.errors import UserError

#: Rows that are looked at together when memory-mapped arrays are checked.
_CHUNK = 1 << 16


def _none() -> np.ndarray:
    return np.zeros(0, dtype=np.int64)


class ArrayRows:
    """Some rows of a (memory-mapped) array, gathered when they are asked for: ``view[i]`` is ``array[rows[i]]``.

    Args:
        array: (N, ...).
        rows: (n,) int64.
    """

    def __init__(self, array: np.ndarray | ArrayRows, rows: np.ndarray) -> None:
        if isinstance(array, ArrayRows):
            array, rows = array.array, array.rows[rows]
        self.array, self.rows = array, rows

    @property
    def shape(self) -> tuple[int, ...]:
        """As a numpy array's."""
        return (len(self.rows), *self.array.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """As a numpy array's."""
        return self.array.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.array[self.rows[index]]

    def take(self, indices: np.ndarray, axis: int = 0) -> np.ndarray:
        """As a numpy array's, along the first axis."""
        return self.array.take(self.rows[indices], axis=0)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.array[self.rows], dtype=dtype)


@dataclass(frozen=True)
class Episodes:
    """Recorded episodes, one after another. Row i holds what the agent saw when it took action i.

    Args:
        observations: ``state`` (N, S) float32, and ``image/<key>`` (N, H, W, 3) uint8 for every image of the layout,
            as numpy arrays, memory maps or :class:`ArrayRows`.
        actions: (N, A) float32.
        ends: (E,) int64, exclusive, increasing; the last one is N.
        layout: of the observations.
        action_low, action_high: (A,) float32, bounds of the environment's actions; may be infinite.
        environment: gymnasium id of the environment, or "".
        seeds: (E,) int64, with which the environment was reset; -1 where unknown. Empty: all unknown.
        successes: (E,) int8, 1 for success, 0 for failure, -1 where unknown. Empty: all unknown.
        numbers: (E,) int64, the episodes' numbers in the data set they come from (for messages). Empty: 0 .. E-1.
        source: what messages call the data: a file or a data set's name.

    Raises:
        UserError: no episode, an empty one, lengths that do not fit, bounds without room, or a NaN or infinite state or
            action (the message names the episode and the step).
    """

    observations: Mapping[str, np.ndarray | ArrayRows]
    actions: np.ndarray
    ends: np.ndarray
    layout: ObservationLayout
    action_low: np.ndarray
    action_high: np.ndarray
    environment: str = ""
    seeds: np.ndarray = field(default_factory=_none)
    successes: np.ndarray = field(default_factory=_none)
    numbers: np.ndarray = field(default_factory=_none)
    source: str = ""

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "ends", np.asarray(self.ends, dtype=np.int64))
        put(self, "actions", _plain(self.actions))
        put(self, "observations", {key: _plain(value) for key, value in self.observations.items()})
        for name in ("action_low", "action_high"):
            put(self, name, np.asarray(getattr(self, name), dtype=np.float32))
        count = len(self.ends)
        unknown = np.full(count, -1)
        for name, default, dtype in (
            ("seeds", unknown, np.int64),
            ("successes", unknown, np.int8),
            ("numbers", np.arange(count), np.int64),
        ):
            value = getattr(self, name)
            put(self, name, np.asarray(value if len(value) else default, dtype=dtype))
            if len(getattr(self, name)) != count:
                raise self._error(f"there are {count} episodes and {len(value)} {name}")
        self._check()

    def _error(self, message: str) -> UserError:
        return UserError(f"demonstrations{f' {self.source}' if self.source else ''}: {message}")

    def _check(self) -> None:
        if not len(self.ends):
            raise self._error("there is no episode")
        for episode in np.flatnonzero(self.lengths <= 0):
            raise self._error(f"episode {self.numbers[episode]} has no step")
        if self.actions.ndim != 2:
            raise self._error(f"actions have shape {self.actions.shape}, (steps, entries) is expected")
        steps = int(self.ends[-1])
        for name, value in {"actions": self.actions, **self.observations}.items():
            if len(value) != steps:
                raise self._error(f"{name!r} has {len(value)} rows, the episodes have {steps} steps")
        expected = {"state": (self.layout.state_size,)}
        expected |= {f"image/{key}": (height, width, 3) for key, height, width in self.layout.images}
        if set(expected) != set(self.observations):
            raise self._error(f"observations are {sorted(self.observations)}, the layout has {sorted(expected)}")
        for name, shape in expected.items():
            if self.observations[name].shape[1:] != shape:
                raise self._error(f"{name!r} has rows of {self.observations[name].shape[1:]}, the layout has {shape}")
        if self.action_low.shape != self.action_high.shape or self.action_low.shape != self.actions.shape[1:]:
            raise self._error(f"actions have {self.actions.shape[1]} entries, their bounds {self.action_low.shape}")
        if not (self.action_low <= self.action_high).all():
            raise self._error(f"actions are bounded from {self.action_low} to {self.action_high}: no action fits")
        for name, value in (("action", self.actions), ("state", self.observations["state"])):
            for first in range(0, steps, _CHUNK):
                bad = np.flatnonzero(~np.isfinite(value[first : first + _CHUNK]).all(axis=1))
                if len(bad):
                    row = first + int(bad[0])
                    episode = int(np.searchsorted(self.ends, row, side="right"))
                    number, step = self.numbers[episode], row - int(self.starts[episode])
                    raise self._error(f"episode {number} step {step} has a NaN or infinite {name}: leave it out")

    @property
    def starts(self) -> np.ndarray:
        """(E,) first row of every episode."""
        return np.concatenate([[0], self.ends[:-1]]).astype(np.int64)

    @property
    def lengths(self) -> np.ndarray:
        """(E,) steps of every episode."""
        return np.diff(self.ends, prepend=0)

    @property
    def steps(self) -> int:
        """Steps of all episodes, N."""
        return int(self.ends[-1])

    def __len__(self) -> int:
        return len(self.ends)

    def take(self, episodes: Sequence[int] | np.ndarray) -> Episodes:
        """Only these episodes, in this order. States and actions are copied, images are gathered when they are read.

        Raises:
            UserError: none is asked for.
        """
        chosen = np.asarray(episodes, dtype=np.int64)
        if not len(chosen):
            raise self._error("none of the episodes is taken")
        lengths = self.lengths[chosen]
        ends = np.cumsum(lengths)
        rows = np.repeat(self.starts[chosen] - (ends - lengths), lengths) + np.arange(ends[-1])
        return Episodes(
            {
                key: ArrayRows(value, rows) if key.startswith("image/") else value[rows]
                for key, value in self.observations.items()
            },
            self.actions[rows],
            ends,
            self.layout,
            self.action_low,
            self.action_high,
            self.environment,
            self.seeds[chosen],
            self.successes[chosen],
            self.numbers[chosen],
            self.source,
        )

    def split(self, *, validation: float, test: float = 0.0, seed: int = 0) -> dict[Split, np.ndarray]:
        """Numbers of the episodes of each split, see :func:`split_episodes`."""
        return split_episodes(len(self), validation=validation, test=test, seed=seed)


def _plain(array: Any) -> Any:
    """A memory map as an ordinary array (indexing the subclass costs microseconds); others as they are."""
    if isinstance(array, np.memmap):
        return array.view(np.ndarray)
    return array


def split_episodes(count: int, *, validation: float, test: float = 0.0, seed: int = 0) -> dict[Split, np.ndarray]:
    """Part ``count`` episodes at random, by ``seed`` alone.

    Args:
        count: number of episodes.
        validation, test: shares in [0, 1) of the episodes, rounded; at least one episode each where the share is
            positive and enough episodes are there. Training always keeps one.
        seed: of the order.

    Returns:
        Sorted int64 numbers for ``train``, ``validation`` and ``test``; disjoint, and all episodes together.
    """
    if not (0 <= validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise UserError(
            f"data.init_args.validation is {validation} and test {test}: they are shares of the episodes, at least 0 "
            "and together below 1"
        )
    order = np.random.default_rng([seed, count]).permutation(count)
    sizes = []
    left = count - 1
    for share in (validation, test):
        size = min(max(round(share * count), 1), left) if share > 0 else 0
        sizes.append(size)
        left -= size
    first, second = sizes[0], sizes[0] + sizes[1]
    return {
        "train": np.sort(order[second:]),
        "validation": np.sort(order[:first]),
        "test": np.sort(order[first:second]),
    }
