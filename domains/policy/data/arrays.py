"""Demonstrations in one ``.npz`` file of flat arrays with episode ends."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from domains.policy.data.demonstrations import Demonstrations
from domains.policy.episodes import Episodes
from domains.policy.observations import ObservationLayout
from flowkit.errors import UserError, nearest

_SELECTION = re.compile(r"(?:(?P<key>[^=\[\]]*)=)?(?P<array>[^=\[\]]+)(?:\[(?P<columns>[-\d:]+)\])?")


class ArrayDemonstrations(Demonstrations):
    """An ``.npz`` file with arrays that have one row a step (all episodes one after another), and the ends.

    An entry of ``state`` names an array, or some of its columns: ``keypoint``, ``state[:2]``, ``state[4]``. Arrays of
    more dimensions are flattened to columns first. Without further words the entries are joined in the given order to
    one plain vector, as an environment with a plain box observes it. An environment with a dictionary of observations
    needs their keys: ``agent_pos=state[:2]``.

    Args:
        file: path of the ``.npz``.
        state: what makes up the state, see above.
        actions: the array of actions (or some columns of it).
        ends: integer array, the row after the last one of each episode.
        images: arrays of images (uint8, N x H x W x 3) by the key of the observation.
        environment: gymnasium id of the environment, for rollouts.
        action_low, action_high: bounds of the actions; empty means none.
        terms: licence of the recordings, for the statistics.
        options: see :class:`Demonstrations`.
    """

    def __init__(
        self,
        file: str,
        *,
        state: list[str],
        actions: str = "action",
        ends: str = "episode_ends",
        images: dict[str, str] | None = None,
        environment: str = "",
        action_low: list[float] | None = None,
        action_high: list[float] | None = None,
        terms: str = "unknown",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.file, self.state, self.action, self.ends_array = file, state, actions, ends
        self.images, self.environment = dict(images or {}), environment
        self.action_low, self.action_high, self.licence = action_low, action_high, terms

    @property
    def source(self) -> str:
        """Name of the file."""
        return Path(self.file).name

    def episodes(self) -> Episodes:
        """Read the file.

        Raises:
            UserError: it is missing or broken, or lacks an array.
        """
        path = Path(self.file).expanduser()
        try:
            with path.open("rb") as file:
                if not zipfile.is_zipfile(file):
                    raise UserError(f"{self.file!r} is no whole .npz file: save named arrays with numpy.savez")
                file.seek(0)
                with np.load(file, allow_pickle=False) as arrays:
                    return self._episodes(arrays)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise UserError(f"cannot read the arrays of {self.file!r}: {reason}") from error

    def _episodes(self, arrays: Mapping[str, np.ndarray]) -> Episodes:
        named = [self._select(arrays, text, "state") for text in self.state]
        keys = [key for key, _ in named]
        if None in keys and any(key is not None for key in keys):
            raise UserError(f"data.init_args.state mixes entries with a key and without one: {', '.join(self.state)}")
        if None not in keys:
            named.sort(key=lambda pair: str(pair[0]))
            parts = tuple((str(key), value.shape[1]) for key, value in named)
            if len(dict(parts)) < len(parts):
                raise UserError(f"data.init_args.state gives a key twice: {', '.join(self.state)}")
        else:
            parts = (("", sum(value.shape[1] for _, value in named)),)
        _, actions = self._select(arrays, self.action, "actions")
        observations = {"state": self._join([value for _, value in named], actions)}
        images = []
        for key, name in sorted(self.images.items()):
            image = _array(arrays, name, "images", self.file)
            if image.dtype != np.uint8 or image.ndim != 4 or image.shape[-1] != 3:
                raise UserError(
                    f"array {name!r} of {self.file!r} is {image.dtype} of shape {image.shape}: images are uint8 of "
                    "shape (steps, height, width, 3)"
                )
            images.append((key, image.shape[1], image.shape[2]))
            observations[f"image/{key}"] = image
        size = actions.shape[1]
        return Episodes(
            observations,
            actions.astype(np.float32),
            self._ends(arrays, len(actions)),
            ObservationLayout(parts, tuple(images)),
            bound(self.action_low, size, -np.inf, "action_low"),
            bound(self.action_high, size, np.inf, "action_high"),
            self.environment,
            source=self.source,
        )

    def _join(self, values: Sequence[np.ndarray], actions: np.ndarray) -> np.ndarray:
        lengths = {len(value) for value in values} - {len(actions)}
        if lengths:
            raise UserError(f"{self.file!r} has {len(actions)} actions and states of {lengths.pop()} rows")
        if not values:
            return np.zeros((len(actions), 0), dtype=np.float32)
        return np.concatenate(values, axis=1).astype(np.float32)

    def _select(self, arrays: Mapping[str, np.ndarray], text: str, argument: str) -> tuple[str | None, np.ndarray]:
        """The key (None where none is given) and the columns (N, n) that ``text`` means."""
        found = _SELECTION.fullmatch(text.strip())
        if found is None:
            raise UserError(
                f"data.init_args.{argument} {text!r} cannot be read: write an array's name, with columns where not all "
                "are meant (state[:2]), with a key where the environment has several (agent_pos=state[:2])"
            )
        array = _array(arrays, found["array"].strip(), argument, self.file)
        if array.dtype.kind not in "fiub" or array.ndim < 1:
            raise UserError(f"array {found['array']!r} of {self.file!r} holds {array.dtype}, numbers are expected")
        array = array.reshape(len(array), -1)
        if found["columns"]:
            array = array[:, _columns(found["columns"], array.shape[1], text, self.file)]
        key = found["key"]
        return (None if key is None else key.strip()), array

    def _ends(self, arrays: Mapping[str, np.ndarray], steps: int) -> np.ndarray:
        ends = _array(arrays, self.ends_array, "ends", self.file)
        if ends.dtype.kind not in "iu" or ends.ndim != 1 or not len(ends):
            raise UserError(f"array {self.ends_array!r} of {self.file!r} is no row of integers: it holds episode ends")
        if ends[-1] != steps and ends.sum() == steps:
            raise UserError(
                f"array {self.ends_array!r} of {self.file!r} holds lengths of episodes: save their ends, "
                "numpy.cumsum(lengths)"
            )
        return ends


def bound(values: Sequence[float] | None, size: int, default: float, argument: str) -> np.ndarray:
    """(A,) float32 bound of the actions; ``default`` everywhere where none is given."""
    if not values:
        return np.full(size, default, dtype=np.float32)
    if len(values) not in (1, size):
        raise UserError(f"data.init_args.{argument} has {len(values)} entries, an action has {size}")
    return np.broadcast_to(np.asarray(values, dtype=np.float32), (size,)).copy()


def _array(arrays: Mapping[str, np.ndarray], name: str, argument: str, file: str) -> np.ndarray:
    if name not in arrays:
        raise UserError(f"data.init_args.{argument}: {file!r} has no array {name!r}: {nearest(name, list(arrays))}")
    return arrays[name]


def _columns(text: str, size: int, whole: str, file: str) -> slice:
    try:
        numbers = [int(part) if part else None for part in text.split(":")]
        if len(numbers) == 1 and numbers[0] is not None:
            first = numbers[0] + size if numbers[0] < 0 else numbers[0]
            columns = slice(first, first + 1)
        else:
            columns = slice(*numbers)
        chosen = len(range(size)[columns])
    except (ValueError, TypeError):
        chosen, columns = 0, slice(0)
    if not chosen:
        raise UserError(f"{whole!r} chooses no column of the {size} that {file!r} has there")
    return columns
