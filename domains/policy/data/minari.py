"""Demonstrations in Minari's format: any data set that lies on this machine."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from domains.policy.data.cache import CachedDemonstrations, EpisodeWriter
from domains.policy.episodes import Episodes
from domains.policy.observations import ObservationLayout
from flowkit.errors import UserError, nearest

#: Keys of an episode's infos or metadata that tell success.
SUCCESS = ("success", "is_success")


def datasets_root(root: str = "") -> Path:
    """Where Minari keeps data sets: ``root``, else ``$MINARI_DATASETS_PATH``, else ``~/.minari/datasets``."""
    return Path(root or os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser()


class MinariDemonstrations(CachedDemonstrations):
    """A Minari data set by its id, of any back end (hdf5, arrow, parquet), with nested observations and images.

    Each of its episodes holds one observation more than actions; the last observation is left out. Reading episodes
    one after another is slow where there are images, so the set is converted once to flat arrays in the cache; a data
    set that changed is converted anew.

    Args:
        dataset: id, as ``minari list local`` shows it: ``pointmaze/umaze-v2``.
        root: folder of the data sets; empty means ``$MINARI_DATASETS_PATH``, else Minari's own folder.
        keys: observations to keep, all where empty; keys of nested ones are joined by ``/``.
        environment: gymnasium id for rollouts, in place of the one that the data set names.
        successes: leave out episodes that are known to have failed.
        cache: where converted data go; empty means ``$FLOWKIT_CACHE`` or the user's cache folder.
        options: see :class:`Demonstrations`.
    """

    def __init__(
        self,
        dataset: str,
        *,
        root: str = "",
        keys: list[str] | None = None,
        environment: str = "",
        successes: bool = False,
        cache: str = "",
        **options: Any,
    ) -> None:
        super().__init__(cache=cache, **options)
        self.dataset, self.root, self.keys = dataset, root, list(keys or ())
        self.environment, self.successes = environment, successes

    @property
    def source(self) -> str:
        """Id of the data set."""
        return self.dataset

    @property
    def path(self) -> Path:
        """Folder of the data set's files."""
        return datasets_root(self.root) / self.dataset / "data"

    def settings(self) -> Mapping[str, Any]:
        """Identity of the data set and of its present files.

        Raises:
            UserError: there is no such data set.
        """
        path = self.path
        try:
            metadata = (path / "metadata.json").read_bytes()
        except OSError:
            local = local_datasets(datasets_root(self.root))
            raise UserError(
                f"there is no Minari data set {self.dataset!r} in {str(datasets_root(self.root))!r}: "
                f"{nearest(self.dataset, local)}; minari download {self.dataset} fetches a public one"
            ) from None
        files = (path / "metadata.json", path / "main_data.hdf5")
        states = [file.stat() for file in files if file.is_file()]
        return {
            "path": str(path.absolute()),
            "metadata": hashlib.sha256(metadata).hexdigest()[:16],
            "files": [[state.st_size, state.st_mtime_ns] for state in states],
            "keys": self.keys,
            "environment": self.environment,
            "successes": self.successes,
        }

    def convert(self, folder: Path, settings: Mapping[str, Any]) -> Episodes:
        """See :class:`CachedDemonstrations`.

        Raises:
            UserError: the data set is broken, its actions are no box, or no episode is left.
        """
        storage = open_storage(self.path, self.dataset)
        low, high = _bounds(storage.action_space, self.dataset)
        layout = ObservationLayout.of_space(storage.observation_space, keys=self.keys)
        with EpisodeWriter(folder, layout, actions=len(low)) as writer:
            for number, episode in _episodes(storage, self.dataset):
                metadata = _metadata(storage, number)
                success = _success(metadata, episode.get("infos"))
                if self.successes and success is False:
                    continue
                steps = len(episode["rewards"])
                actions = np.asarray(episode["actions"])
                try:
                    parts = layout.parts_batch(episode["observations"])
                except UserError as error:
                    raise UserError(f"Minari data set {self.dataset!r} episode {number}: {error}") from error
                if actions[:1].size not in (0, len(low)):
                    raise UserError(
                        f"Minari data set {self.dataset!r} episode {number}: actions have {actions[:1].size} entries, "
                        f"the data set's action space {len(low)}"
                    )
                seen = len(parts["state"])
                if len(actions) != steps or seen != steps + 1 or steps != metadata.get("total_steps", steps):
                    raise UserError(
                        f"Minari data set {self.dataset!r} episode {number} has {seen} observations and "
                        f"{len(actions)} actions for {steps} steps; one observation more than actions is expected"
                    )
                writer.add(
                    {key: value[:-1] for key, value in parts.items()},
                    actions,
                    seed=metadata.get("seed"),
                    success=success,
                    number=number,
                )
            return writer.finish(
                action_low=low,
                action_high=high,
                environment=self.environment or environment_of(self.path),
                source=self.dataset,
                settings=settings,
            )


def local_datasets(root: Path) -> list[str]:
    """Ids of the data sets below ``root``."""
    return sorted(str(file.parent.parent.relative_to(root)) for file in root.glob("**/data/metadata.json"))


def environment_of(path: Path) -> str:
    """The gymnasium id that a data set's metadata names, or ""."""
    metadata = json.loads((path / "metadata.json").read_text(encoding="utf-8"))
    try:
        return str(json.loads(metadata.get("env_spec") or "{}").get("id", ""))
    except (ValueError, TypeError, AttributeError):
        raise UserError(
            f"{str(path / 'metadata.json')!r}: env_spec is no specification of an environment: name it by "
            "data.init_args.environment"
        ) from None


def open_storage(path: Path, dataset: str) -> Any:
    """Minari's storage of the data set at ``path``.

    Raises:
        UserError: Minari is not installed, or the files are broken.
    """
    try:
        from minari.dataset.minari_storage import MinariStorage
    except ImportError as error:
        raise UserError(f"Minari data needs a package ({error}): pip install 'flowkit-fm[policy]'") from error
    try:
        storage = MinariStorage.read(path)
        if not isinstance(storage.total_episodes, int):
            raise TypeError(f"total_episodes is {storage.total_episodes!r}")
        return storage
    except Exception as error:  # whatever the metadata or a back end is not happy with
        raise UserError(f"Minari data set {dataset!r} in {str(path)!r} cannot be opened: {error}") from error


def recorded_seeds(dataset: str, root: str = "") -> set[int]:
    """Seeds with which the episodes of a local data set began, as far as it knows them; empty where there is none.

    Raises:
        UserError: see :func:`open_storage`.
    """
    path = datasets_root(root) / dataset / "data"
    if not (path / "metadata.json").is_file():
        return set()
    storage = open_storage(path, dataset)
    found = (_metadata(storage, number).get("seed") for number in range(storage.total_episodes))
    return {int(seed) for seed in found if seed is not None}


def _episodes(storage: Any, dataset: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    from tqdm import tqdm

    for number in tqdm(range(storage.total_episodes), desc=f"converting {dataset}", unit="episode", mininterval=1.0):
        try:
            yield number, next(iter(storage.get_episodes([number])))
        except UserError:
            raise
        except Exception as error:  # h5py, pyarrow and the image decoder each have their own
            raise UserError(
                f"Minari data set {dataset!r} in {str(storage.data_path)!r}: episode {number} cannot be read "
                f"({' '.join(str(error).split()) or type(error).__name__})"
            ) from error


def _metadata(storage: Any, number: int) -> Mapping[str, Any]:
    try:
        return next(iter(storage.get_episode_metadata([number])))
    except (OSError, KeyError, ValueError):
        return {}


def _success(metadata: Mapping[str, Any], infos: Mapping[str, Any] | None) -> bool | None:
    """Whether the episode succeeded: by its metadata, else by any step's info; None where neither tells."""
    for name in SUCCESS:
        if name in metadata:
            return bool(metadata[name])
        if infos and name in infos:
            return bool(np.any(np.asarray(infos[name], dtype=np.float64) > 0.5))
    return None


def _bounds(space: Any, dataset: str) -> tuple[np.ndarray, np.ndarray]:
    from gymnasium import spaces

    if not isinstance(space, spaces.Box):
        raise UserError(
            f"Minari data set {dataset!r} has actions of a {type(space).__name__} space: a flow policy needs a Box"
        )
    return space.low.ravel().astype(np.float32), space.high.ravel().astype(np.float32)
