"""Episodes as a folder of flat, memory-mapped arrays: what slow sources are converted to, once.

A folder holds ``actions.npy``, ``state.npy``, one ``image-<number>.npy`` an image key, and ``manifest.json`` with the
ends, seeds, successes, the layout and the settings.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from domains.policy.data.demonstrations import Demonstrations
from domains.policy.episodes import Episodes
from domains.policy.observations import ObservationLayout
from flowkit import atomic
from flowkit.caching import cache_root
from flowkit.errors import UserError, writing

#: Raised when the layout of a folder changes.
FORMAT = 1


class _Column:
    """An ``.npy`` file whose rows are appended; its header is written again at the end."""

    def __init__(self, path: Path, dtype: Any, row: tuple[int, ...]) -> None:
        self.dtype, self.row, self.rows = np.dtype(dtype), row, 0
        self.file: IO[bytes] = path.open("wb")
        self._header()

    def _header(self) -> None:
        # numpy leaves room for a longer first axis, so the header keeps its size.
        description = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.rows, *self.row)}
        np.lib.format.write_array_header_1_0(self.file, description)

    def append(self, values: np.ndarray) -> None:
        values = np.ascontiguousarray(values, dtype=self.dtype)
        if values.shape[1:] != self.row:
            raise UserError(f"rows have shape {values.shape[1:]}, {self.row} is expected")
        self.file.write(values.tobytes())
        self.rows += len(values)

    def close(self) -> None:
        self.file.seek(0)
        self._header()
        self.file.close()


class EpisodeWriter:
    """Writes a folder of episodes, one episode at a time, so that image sets larger than the memory pass through.

    Use it as a context manager; :meth:`finish` writes the manifest.

    Args:
        folder: an empty folder.
        layout: of the observations.
        actions: entries of an action.
    """

    def __init__(self, folder: Path, layout: ObservationLayout, *, actions: int) -> None:
        self.folder, self.layout = folder, layout
        self._columns = {"state": _Column(folder / "state.npy", np.float32, (layout.state_size,))}
        for number, (key, height, width) in enumerate(layout.images):
            path = folder / f"image-{number}.npy"
            self._columns[f"image/{key}"] = _Column(path, np.uint8, (height, width, 3))
        self._columns["actions"] = _Column(folder / "actions.npy", np.float32, (actions,))
        self._episodes: dict[str, list[int]] = {"ends": [], "seeds": [], "successes": [], "numbers": []}

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for column in self._columns.values():
            if not column.file.closed:
                column.file.close()

    def add(
        self,
        parts: Mapping[str, np.ndarray],
        actions: np.ndarray,
        *,
        seed: int | None = None,
        success: bool | None = None,
        number: int | None = None,
    ) -> None:
        """Append one episode.

        Args:
            parts: ``state`` (T, S) and images ``image/<key>`` (T, H, W, 3), of the steps that have an action.
            actions: (T, A).
            seed: with which the environment was reset, where known.
            success: where known.
            number: of the episode in its source; its place where left out.
        """
        actions = np.asarray(actions).reshape(len(actions), -1)
        for name, column in self._columns.items():
            values = actions if name == "actions" else parts[name]
            if len(values) != len(actions):
                raise UserError(f"episode {number}: {name} has {len(values)} rows for {len(actions)} actions")
            column.append(values)
        rows = self._episodes
        # A seed may have 64 bits without a sign; what does not fit counts as unknown.
        rows["seeds"].append(seed if seed is not None and 0 <= seed < 2**63 else -1)
        rows["successes"].append(-1 if success is None else int(success))
        rows["numbers"].append(len(rows["ends"]) if number is None else number)
        rows["ends"].append(self._columns["actions"].rows)

    def finish(
        self,
        *,
        action_low: np.ndarray,
        action_high: np.ndarray,
        environment: str = "",
        source: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> Episodes:
        """Write the manifest and read everything back, checked.

        Raises:
            UserError: the episodes are refused, see :class:`Episodes`.
        """
        for column in self._columns.values():
            column.close()
        manifest = {
            "format": FORMAT,
            "environment": environment,
            "source": source,
            "layout": self.layout.to_json(),
            "action_low": np.asarray(action_low, dtype=np.float64).ravel().tolist(),
            "action_high": np.asarray(action_high, dtype=np.float64).ravel().tolist(),
            "settings": dict(settings or {}),
            **self._episodes,
        }
        (self.folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        return read_episodes(self.folder)


def read_episodes(folder: Path) -> Episodes:
    """The episodes in a folder that :class:`EpisodeWriter` wrote, memory-mapped.

    Raises:
        UserError: something is missing, or of another format.
    """
    again = "delete the folder and prepare it again"
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise UserError(
                f"prepared demonstrations in {str(folder)!r} have format {manifest['format']}, this version reads "
                f"{FORMAT}: {again}"
            )
        layout = ObservationLayout.from_json(manifest["layout"])
        arrays: dict[str, np.ndarray] = {"state": _load(folder / "state.npy")}
        for number, (key, _, _) in enumerate(layout.images):
            arrays[f"image/{key}"] = _load(folder / f"image-{number}.npy")
        actions = _load(folder / "actions.npy")
        numbers = {name: np.asarray(manifest[name]) for name in ("ends", "seeds", "successes", "numbers")}
        bounds = [np.asarray(manifest[name], dtype=np.float32) for name in ("action_low", "action_high")]
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise UserError(f"prepared demonstrations in {str(folder)!r} cannot be read ({error}): {again}") from error
    return Episodes(
        arrays,
        actions,
        numbers["ends"],
        layout,
        bounds[0],
        bounds[1],
        manifest["environment"],
        numbers["seeds"],
        numbers["successes"],
        numbers["numbers"],
        manifest["source"],
    )


def _load(path: Path) -> np.ndarray:
    array = np.load(path, mmap_mode="r") if path.stat().st_size > 1 << 20 else np.load(path)
    return np.asarray(array)


class CachedDemonstrations(Demonstrations):
    """Base of sources that are converted once to a cache folder.

    A subclass writes :meth:`settings` and :meth:`convert`; the folder's name holds a hash of the settings.

    Args:
        cache: where converted data go; empty means ``$FLOWKIT_CACHE`` or the user's cache folder.
        options: see :class:`Demonstrations`.
    """

    def __init__(self, *, cache: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.cache = cache

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """Everything that decides the converted arrays: JSON values, among them what tells that the source changed.

        Raises:
            UserError: the source is not there.
        """

    @abstractmethod
    def convert(self, folder: Path, settings: Mapping[str, Any]) -> Episodes:
        """Fill the empty ``folder`` by an :class:`EpisodeWriter` and return what its ``finish`` returns."""

    @property
    def folder(self) -> Path:
        """Cache folder of these settings."""
        return self._folder(self.settings())

    def _folder(self, settings: Mapping[str, Any]) -> Path:
        text = json.dumps({"format": FORMAT, "class": type(self).__name__, **settings}, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return cache_root(self.cache) / "policy" / f"{type(self).__name__.lower()}-{digest}"

    def episodes(self) -> Episodes:
        """Convert where that was not done; read the cache."""
        settings = self.settings()
        folder = self._folder(settings)
        with writing(folder, "prepared demonstrations to "):
            atomic.write_folder_once(folder, lambda temporary: self.convert(temporary, settings))
        return read_episodes(folder)
