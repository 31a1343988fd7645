"""What LeRobot's two layouts on disk have in common: ``info.json``, features, episodes and where their rows are."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowkit.errors import UserError, nearest

#: Readable versions of the layout.
VERSIONS = ("v2.0", "v2.1", "v3.0")
EXTRA = "pip install 'flowkit-fm[policy]'"


@dataclass(frozen=True)
class VideoPart:
    """Where an episode's frames of one camera are.

    Args:
        path: of the mp4.
        start: seconds in it at which the episode begins.
    """

    path: Path
    start: float = 0.0


@dataclass(frozen=True)
class EpisodeEntry:
    """One episode of the data set.

    Args:
        number: its index.
        length: frames.
        data: the parquet file with its rows.
        videos: by feature.
        tasks: texts.
    """

    number: int
    length: int
    data: Path
    videos: Mapping[str, VideoPart] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Info:
    """``meta/info.json``.

    Args:
        folder: of the data set.
        version: of the layout.
        fps: frames per second.
        features: by key, each with ``dtype``, ``shape``, ``names``.
        content: the whole file.
    """

    folder: Path
    version: str
    fps: float
    features: Mapping[str, Mapping[str, Any]]
    content: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """The file itself."""
        return self.folder / "meta" / "info.json"

    def feature(self, key: str) -> Mapping[str, Any]:
        """One feature's description.

        Raises:
            UserError: there is none.
        """
        if key not in self.features:
            raise UserError(f"{str(self.path)!r} has no feature {key!r}: {nearest(key, self.features)}")
        return self.features[key]

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a feature's value.

        Raises:
            UserError: it is no list of positive whole numbers.
        """
        shape = self.feature(key).get("shape", ())
        if not isinstance(shape, list | tuple) or not all(isinstance(size, int) and size > 0 for size in shape):
            raise UserError(
                f"{str(self.path)!r}: feature {key!r} has the shape {shape!r}, positive numbers are expected"
            )
        return tuple(shape)

    def is_image(self, key: str) -> bool:
        """Whether the feature is an image or a video of colours."""
        feature = self.feature(key)
        return feature.get("dtype") in ("image", "video") and not self._depth(feature)

    def _depth(self, feature: Mapping[str, Any]) -> bool:
        details = _details(feature)
        return bool(details.get("video.is_depth_map") or details.get("is_depth_map"))

    def is_vector(self, key: str) -> bool:
        """Whether the feature holds numbers."""
        dtype = str(self.feature(key).get("dtype"))
        return dtype == "bool" or dtype.startswith(("float", "int", "uint"))

    def sides(self, key: str) -> tuple[int, int]:
        """Height and width of an image feature.

        Raises:
            UserError: its shape is not that of an RGB image.
        """
        shape, names = self.shape(key), self.feature(key).get("names") or ()
        first = isinstance(names, Sequence) and len(names) == 3 and str(names[0]).startswith("channel")
        if len(shape) == 3 and (first or (shape[0] == 3 and shape[2] != 3)):
            shape = (*shape[1:], shape[0])
        if len(shape) != 3 or shape[2] != 3:
            raise UserError(f"{str(self.path)!r}: image feature {key!r} has shape {self.shape(key)}, no RGB image")
        return shape[0], shape[1]

    def formatted(self, name: str, **values: Any) -> Path:
        """A file's path by the pattern ``name`` (``data_path``, ``video_path``) of the info.

        Raises:
            UserError: the pattern is missing or wants other values.
        """
        pattern = self.content.get(name)
        try:
            return self.folder / str(pattern).format(**values) if pattern else self._no_pattern(name, pattern)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError):
            return self._no_pattern(name, pattern)

    def _no_pattern(self, name: str, pattern: object) -> Path:
        raise UserError(f"{str(self.path)!r}: {name} is {pattern!r}, from which no file name can be made")


def _details(feature: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a feature says of its video; empty where it says nothing that can be read."""
    details = feature.get("info") or feature.get("video_info")
    return details if isinstance(details, Mapping) else {}


def whole(value: Any, name: str, path: Path) -> int:
    """``value`` as a whole number of at least 0.

    Raises:
        UserError: it is none; the message names ``name`` and the file.
    """
    if not isinstance(value, int) or value < 0:
        raise UserError(f"{str(path)!r}: {name} is {value!r} in one row, whole numbers from 0 on are expected")
    return value


def in_order(entries: Iterable[EpisodeEntry], path: Path) -> list[EpisodeEntry]:
    """Episodes by their numbers.

    Raises:
        UserError: a number comes twice.
    """
    found = sorted(entries, key=lambda entry: entry.number)
    for before, after in itertools.pairwise(found):
        if before.number == after.number:
            raise UserError(f"{str(path)!r} lists episode {after.number} twice")
    return found


def read_info(folder: Path) -> Info:
    """Read ``meta/info.json`` of a data set.

    Raises:
        UserError: it is missing or broken, or of a version that cannot be read.
    """
    path = folder / "meta" / "info.json"
    content = read_json(path, hint=" (data.init_args.folder is the folder that holds meta/ and data/)")
    version = str(content.get("codebase_version", ""))
    if version not in VERSIONS:
        raise UserError(
            f"{str(path)!r}: codebase_version is {version!r}, {', '.join(VERSIONS)} can be read: convert the data set "
            "with LeRobot's own converter"
        )
    try:
        fps = float(content["fps"])
        features = {str(key): dict(value) for key, value in content["features"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{str(path)!r} lacks fps or features, or they are broken ({error})") from error
    if not fps > 0:
        raise UserError(f"{str(path)!r}: fps is {fps:g}, it is above 0")
    for key, feature in features.items():
        own = _details(feature).get("video.fps") if feature.get("dtype") == "video" else None
        if own is not None and not (isinstance(own, int | float) and abs(own - fps) <= 1e-3 * fps):
            raise UserError(f"{str(path)!r}: fps is {fps:g}, and {own} for the video {key!r}")
    return Info(folder, version, fps, features, content)


def read_json(path: Path, *, hint: str = "") -> Mapping[str, Any]:
    """A JSON object in a file.

    Raises:
        UserError: the file is missing or broken.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror or error}{hint}") from error
    except ValueError as error:
        raise UserError(f"{str(path)!r} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{str(path)!r} is no JSON object")
    return content


def read_table(path: Path, columns: Iterable[str], *, optional: Iterable[str] = ()) -> Any:
    """Some columns of a parquet file as a pyarrow table; the ``optional`` ones only where they are there.

    Raises:
        UserError: the file is missing, truncated, or lacks a column; pyarrow is not installed.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow import parquet as pq
    except ImportError as error:
        raise UserError(f"LeRobot data need a package ({error}): {EXTRA}") from error
    try:
        # Opened by its name alone: pyarrow would otherwise read folders named key=value as columns.
        with path.open("rb") as file:
            parquet = pq.ParquetFile(file)
            names = parquet.schema_arrow.names
            wanted = list(columns)
            for name in wanted:
                if name not in names:
                    raise UserError(f"{str(path)!r} has no column {name!r}: {nearest(name, names)}")
            return parquet.read(columns=[*wanted, *(name for name in optional if name in names)])
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    except ArrowException as error:
        raise UserError(f"{str(path)!r} is no whole parquet file: {' '.join(str(error).split())}") from error
