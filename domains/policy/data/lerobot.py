"""Demonstrations in LeRobot's format, from a folder on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from domains.policy.data import lerobot_v2, lerobot_v3
from domains.policy.data.arrays import bound
from domains.policy.data.cache import CachedDemonstrations, EpisodeWriter
from domains.policy.data.lerobot_frames import FrameSize, picture_frames, video_frames
from domains.policy.data.lerobot_layout import EpisodeEntry, Info, read_info, read_table
from domains.policy.episodes import Episodes
from domains.policy.observations import ObservationLayout
from flowkit.errors import UserError

#: Columns that every data table has, and one that tells success where it is there.
_ALWAYS = ("timestamp", "frame_index", "episode_index")
_SUCCESS = "next.success"


class LeRobotDemonstrations(CachedDemonstrations):
    """A LeRobot data set (layout v2.0, v2.1 or v3.0) in a folder; nothing is fetched.

    Vectors, pictures in the tables and videos are read, and converted once to flat arrays in the cache. Videos are
    decoded at the rows' times, within half a frame.

    Args:
        folder: of the data set, with ``meta`` and ``data`` in it.
        keys: features that the policy sees; where empty, all ``observation.*`` features that are numbers, pictures or
            videos. ``task_index`` may be among them: it becomes a one-hot part of the state.
        action: feature of the actions.
        names: key in the environment's observation for a feature whose key there is another:
            ``{observation.state: agent_pos, observation.image: pixels}``; ``""`` for a plain vector.
        size: height and width to which pictures are scaled; where empty they keep their own.
        environment: gymnasium id for rollouts.
        action_low, action_high: bounds of the actions; empty means none.
        cache: where converted data go; empty means ``$FLOWKIT_CACHE`` or the user's cache folder.
        options: see :class:`Demonstrations`.
    """

    def __init__(
        self,
        folder: str,
        *,
        keys: list[str] | None = None,
        action: str = "action",
        names: dict[str, str] | None = None,
        size: list[int] | None = None,
        environment: str = "",
        action_low: list[float] | None = None,
        action_high: list[float] | None = None,
        cache: str = "",
        **options: Any,
    ) -> None:
        super().__init__(cache=cache, **options)
        self.root, self.keys, self.action, self.names = folder, list(keys or ()), action, dict(names or {})
        self.size, self.environment = tuple(size or ()), environment
        self.action_low, self.action_high = action_low, action_high

    @property
    def source(self) -> str:
        """Name of the folder."""
        return Path(self.root).name

    @property
    def path(self) -> Path:
        """The data set's folder."""
        return Path(self.root).expanduser()

    @cached_property
    def info(self) -> Info:
        """``meta/info.json``."""
        return read_info(self.path)

    @property
    def features(self) -> list[str]:
        """Features that become parts of the observation, in a fixed order.

        Raises:
            UserError: one of ``keys`` is not there, or is neither numbers nor an RGB picture.
        """
        info = self.info
        for key in [*self.keys, *self.names]:
            info.feature(key)
        if not self.keys:
            return sorted(
                key
                for key in info.features
                if key.startswith("observation.") and (info.is_image(key) or info.is_vector(key))
            )
        for key in self.keys:
            if not info.is_image(key) and not info.is_vector(key):
                raise UserError(
                    f"{str(info.path)!r}: feature {key!r} is {info.feature(key).get('dtype')}: numbers and RGB "
                    "pictures can be observed"
                )
        return sorted(self.keys)

    def tasks(self) -> list[str]:
        """Texts of the tasks in the order of their numbers."""
        return lerobot_v3.tasks(self.info) if self.info.version == "v3.0" else lerobot_v2.tasks(self.info)

    def entries(self) -> list[EpisodeEntry]:
        """All episodes and where their rows and frames are."""
        videos = [key for key in self.features if self.info.feature(key).get("dtype") == "video"]
        module = lerobot_v3 if self.info.version == "v3.0" else lerobot_v2
        return module.entries(self.info, videos)

    def statistics(self) -> Mapping[str, Any]:
        """See :class:`Demonstrations`; ``tasks`` (texts) and ``fps`` besides."""
        return {**super().statistics(), "tasks": self.tasks(), "fps": self.info.fps}

    def settings(self) -> Mapping[str, Any]:
        """Identity of the folder and of its present files."""
        path = self.info.folder
        digest = hashlib.sha256()
        for file in sorted(path.glob("*/**/*")):
            if file.is_file():
                state = file.stat()
                digest.update(f"{file.relative_to(path)} {state.st_size} {state.st_mtime_ns}\n".encode())
        return {
            "path": str(path.absolute()),
            "files": digest.hexdigest()[:16],
            "keys": self.features,
            "action": self.action,
            "names": self.names,
            "size": list(self.size),
            "environment": self.environment,
            "bounds": [list(self.action_low or ()), list(self.action_high or ())],
        }

    def _layout(self) -> tuple[ObservationLayout, Mapping[str, str]]:
        """The layout, and the feature behind each of its keys."""
        features = {self.names.get(key, key): key for key in self.features}
        if len(features) < len(self.features):
            raise UserError(f"data.init_args.names gives one name to two features: {self.names}")
        state: list[tuple[str, int]] = []
        images: list[tuple[str, int, int]] = []
        discrete: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
        if self.size and (len(self.size) != 2 or min(self.size) < 1):
            raise UserError(f"data.init_args.size is {list(self.size)}: it is a height and a width")
        for name, key in sorted(features.items()):
            if self.info.is_image(key):
                height, width = self.size or self.info.sides(key)
                images.append((name or "image", height, width))
            elif key == "task_index":
                count = max(len(self.tasks()), 1)
                state.append((name, count))
                discrete.append((name, (count,), (0,)))
            else:
                state.append((name, int(np.prod(self.info.shape(key), dtype=np.int64))))
        by_name = {name or ("image" if self.info.is_image(key) else ""): key for name, key in features.items()}
        return ObservationLayout(tuple(state), tuple(images), tuple(discrete)), by_name

    def convert(self, folder: Path, settings: Mapping[str, Any]) -> Episodes:
        """See :class:`CachedDemonstrations`.

        Raises:
            UserError: a file is missing, truncated or does not fit ``meta``; the message names it.
        """
        from tqdm import tqdm

        layout, features = self._layout()
        if not self.info.is_vector(self.action):
            kind = self.info.feature(self.action).get("dtype")
            raise UserError(f"{str(self.info.path)!r}: feature {self.action!r} is {kind}, actions are numbers")
        size = int(np.prod(self.info.shape(self.action), dtype=np.int64))
        tables = _Tables(self.info, [*features.values(), self.action])
        with EpisodeWriter(folder, layout, actions=size) as writer:
            for entry in tqdm(self.entries(), desc=f"converting {self.source}", unit="episode", mininterval=1.0):
                rows = tables.rows(entry)
                leaves = {name: self._leaf(rows, entry, key, layout, name) for name, key in features.items()}
                success = rows.column(_SUCCESS).to_pylist() if _SUCCESS in rows.column_names else None
                writer.add(
                    layout.parts_batch(leaves) if leaves else {"state": np.zeros((entry.length, 0), np.float32)},
                    _vectors(rows, self.action, size, entry),
                    success=None if success is None else any(np.ravel(success)),
                    number=entry.number,
                )
            return writer.finish(
                action_low=bound(self.action_low, size, -np.inf, "action_low"),
                action_high=bound(self.action_high, size, np.inf, "action_high"),
                environment=self.environment,
                source=self.source,
                settings=settings,
            )

    def _leaf(self, rows: Any, entry: EpisodeEntry, key: str, layout: ObservationLayout, name: str) -> np.ndarray:
        """One episode's values of a feature, rows first."""
        if not self.info.is_image(key):
            count = dict(layout.state)[name]
            values = _vectors(rows, key, 1 if key == "task_index" else count, entry)
            if key == "task_index" and not (values.min() >= 0 and values.max() < count):
                raise UserError(f"{str(entry.data)!r}: task_index reaches {values.max():g}, meta lists {count} tasks")
            return values
        wanted = next((height, width) for image, height, width in layout.images if image == name)
        size = FrameSize(self.info.sides(key), wanted)
        if key in entry.videos:
            part = entry.videos[key]
            times = part.start + np.asarray(rows.column("timestamp").to_numpy(), dtype=np.float64).ravel()
            return video_frames(part.path, times, tolerance=0.5 / self.info.fps, size=size)
        return picture_frames(rows.column(key).to_pylist(), self.path, entry.data, size=size)


class _Tables:
    """Rows of the episodes; the file that was read last is kept, since episodes share it."""

    def __init__(self, info: Info, features: Sequence[str]) -> None:
        self.info = info
        videos = {key for key in features if info.feature(key).get("dtype") == "video"}
        self.columns = list(dict.fromkeys([*_ALWAYS, *(key for key in features if key not in videos)]))
        self._path: Path | None = None
        self._table: Any = None
        self._numbers = np.zeros(0, dtype=np.int64)

    def rows(self, entry: EpisodeEntry) -> Any:
        """The table of one episode, in the order of its frames.

        Raises:
            UserError: the file is broken, the number of rows is another, or their times do not fit the frame rate.
        """
        if self._path != entry.data:
            self._table = read_table(entry.data, self.columns, optional=[_SUCCESS])
            self._numbers = np.asarray(self._table.column("episode_index").to_numpy()).ravel()
            self._path = entry.data
        places = np.flatnonzero(self._numbers == entry.number)
        if len(places) != entry.length or not len(places) or places[-1] - places[0] + 1 != len(places):
            raise UserError(
                f"{str(entry.data)!r} has {len(places)} rows of episode {entry.number}, its metadata says "
                f"{entry.length}, one after another"
            )
        table = self._table.slice(int(places[0]), entry.length)
        frames = _vectors(table, "frame_index", 1, entry).ravel()
        times = _vectors(table, "timestamp", 1, entry).ravel()
        if (np.diff(frames) != 1).any() or frames[0] != 0:
            raise UserError(f"{str(entry.data)!r}: frames of episode {entry.number} are not in order from 0")
        off = np.abs(times - frames / self.info.fps)
        if not (off <= 0.5 / self.info.fps).all():
            frame = int(np.flatnonzero(~(off <= 0.5 / self.info.fps))[0])
            raise UserError(
                f"{str(entry.data)!r}: episode {entry.number} frame {frame} is at {times[frame]:.4f} s, with the fps "
                f"{self.info.fps:g} of meta/info.json it is at {frames[frame] / self.info.fps:.4f} s"
            )
        return table


def _vectors(rows: Any, key: str, size: int, entry: EpisodeEntry) -> np.ndarray:
    """(T, size) of a column of numbers or of (nested) lists of them, checked."""
    import pyarrow as pa

    values = rows.column(key).combine_chunks()
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    equal = True
    while (
        pa.types.is_list(values.type) or pa.types.is_fixed_size_list(values.type) or pa.types.is_large_list(values.type)
    ):
        # Rows of unequal lengths may sum up to the right number: values would move to other frames.
        lengths = values.value_lengths().to_numpy(zero_copy_only=False) if len(values) else np.zeros(0)
        equal &= values.null_count == 0 and len(np.unique(lengths)) <= 1
        values = values.flatten()
    try:
        numbers = np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{str(entry.data)!r}: {key!r} holds {values.type}, numbers are expected") from None
    if not equal:
        raise UserError(
            f"{str(entry.data)!r}: episode {entry.number} has frames without {key!r}, or with fewer values of it than "
            f"others, {size} a frame are expected"
        )
    if numbers.size != entry.length * size:
        raise UserError(
            f"{str(entry.data)!r}: episode {entry.number} has {numbers.size} values of {key!r} for {entry.length} "
            f"frames, {size} a frame are expected by meta/info.json"
        )
    numbers = numbers.reshape(entry.length, size)
    bad = np.flatnonzero(~np.isfinite(numbers).all(axis=1))
    if len(bad):
        raise UserError(
            f"{str(entry.data)!r}: episode {entry.number} frame {bad[0]} has a NaN, missing or infinite {key!r}: leave "
            "the episode out"
        )
    return numbers
