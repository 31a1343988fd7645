"""Writing recorded episodes as a Minari data set: whole, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from domains.policy.data.minari import datasets_root, open_storage
from flowkit.errors import UserError, writing

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.envs.registration import EnvSpec

DataFormat = Literal["hdf5", "arrow", "parquet"]


@dataclass(frozen=True)
class RecordedEpisode:
    """One episode of T steps as it was recorded.

    Args:
        observations: T+1 rows, nested as the observation space (dictionaries, tuples).
        actions: (T, ...).
        rewards: (T,).
        terminations, truncations: (T,) bool.
        infos: T+1 rows for every key, or None.
        seed: with which the environment was reset.
        success: where known.
    """

    observations: Any
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    infos: Mapping[str, Any] | None = None
    seed: int | None = None
    success: bool | None = None


def check_dataset_id(dataset_id: str) -> None:
    """Refuse what Minari would refuse.

    Raises:
        UserError: the id is malformed, or Minari is missing.
    """
    try:
        import minari.data_collector.episode_buffer  # noqa: F401  (needs packages of its own)
        from minari.dataset.minari_dataset import parse_dataset_id
    except ImportError as error:
        raise UserError(f"writing Minari data needs a package ({error}): pip install 'flowkit-fm[policy]'") from error
    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError):
        raise UserError(
            f"{dataset_id!r} is no Minari id: write (namespace/)name-vN, the namespace with two letters or "
            "more: fork/expert-v0"
        ) from None


def write_minari(
    dataset_id: str,
    episodes: Sequence[RecordedEpisode],
    *,
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    env_spec: EnvSpec | str | None = None,
    algorithm_name: str = "",
    description: str = "",
    author: str = "",
    ref_min_score: float | None = None,
    ref_max_score: float | None = None,
    root: str = "",
    append: bool = False,
    data_format: DataFormat = "hdf5",
    jpeg_encoding: bool = False,
) -> Path:
    """Write a Minari data set, or append to one.

    Everything is written beside the data set and renamed: an interrupted call leaves what was there. The environment
    is not made for it, and Minari's collector (and with it JAX) is not needed.

    Args:
        dataset_id: ``(namespace/)name-vN``.
        episodes: at least one.
        observation_space, action_space: of the environment that was recorded.
        env_spec: gymnasium's specification of it, or its id; users make the environment from it again.
        algorithm_name, description, author: who or what acted.
        ref_min_score, ref_max_score: returns of a random and an expert policy, for normalised scores.
        root: folder of the data sets; empty means ``$MINARI_DATASETS_PATH``, else Minari's own folder.
        append: add to the data set where it is there.
        data_format: ``hdf5``, ``arrow`` or ``parquet``; a data set that is appended to keeps its own.
        jpeg_encoding: keep images as JPEG, which is small and changes them; as above when appending.

    Returns:
        The folder of the data set.

    Raises:
        UserError: the id is malformed, the data set is there already (or, to append, has other spaces), an episode's
            arrays do not fit each other, or nothing can be written there.
    """
    check_dataset_id(dataset_id)
    from minari.data_collector.episode_buffer import EpisodeBuffer

    if not episodes:
        raise UserError(f"Minari data set {dataset_id!r}: there is no episode to write")
    for number, episode in enumerate(episodes):
        _check(number, episode)
    buffers = [
        EpisodeBuffer(
            seed=None if episode.seed is None else int(episode.seed),
            observations=episode.observations,
            actions=np.asarray(episode.actions),  # pyright: ignore[reportArgumentType]
            rewards=np.asarray(episode.rewards, dtype=np.float64),  # pyright: ignore[reportArgumentType]
            terminations=np.asarray(episode.terminations, dtype=bool),  # pyright: ignore[reportArgumentType]
            truncations=np.asarray(episode.truncations, dtype=bool),  # pyright: ignore[reportArgumentType]
            infos=None if episode.infos is None else _infos(episode.infos),
        )
        for episode in episodes
    ]
    folder = datasets_root(root) / dataset_id
    there = (folder / "data" / "metadata.json").is_file()
    if there and not append:
        raise UserError(
            f"Minari data set {dataset_id!r} is already in {str(datasets_root(root))!r}: append to it, or choose "
            "another version (-v1)"
        )
    with writing(folder), _beside(datasets_root(root)) as temporary:
        if there:
            _append(folder, temporary / dataset_id, dataset_id, buffers, observation_space, action_space)
        else:
            _create(
                temporary,
                dataset_id,
                buffers,
                {"ref_min_score": ref_min_score, "ref_max_score": ref_max_score, "env_spec": _spec_json(env_spec)},
                observation_space=observation_space,
                action_space=action_space,
                algorithm_name=algorithm_name or None,
                description=description or None,
                author=author or None,
                data_format=data_format,
                jpeg_encoding=jpeg_encoding,
            )
        storage = open_storage(temporary / dataset_id / "data", dataset_id)
        first = storage.total_episodes - len(episodes)
        known = [(first + i, e.success) for i, e in enumerate(episodes) if e.success is not None]
        storage.update_episode_metadata(
            [{"success": bool(success)} for _, success in known], [number for number, _ in known]
        )
        _publish(temporary, dataset_id, datasets_root(root))
    return folder


def _check(number: int, episode: RecordedEpisode) -> None:
    steps = len(episode.rewards)
    if not steps:
        raise UserError(f"episode {number} has no step")
    lengths = {
        "actions": len(episode.actions),
        "terminations": len(episode.terminations),
        "truncations": len(episode.truncations),
        **{f"observation {key!r}": len(leaf) - 1 for key, leaf in _leaves(episode.observations)},
        **{f"info {key!r}": len(leaf) - 1 for key, leaf in _leaves(episode.infos or {})},
    }
    for name, length in lengths.items():
        if length != steps:
            raise UserError(f"episode {number} has {steps} rewards, and {name} for {length} steps")


def _infos(infos: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of single values as lists: Minari's arrow back ends cannot read them back as arrays."""
    return {
        key: _infos(values)
        if isinstance(values, Mapping)
        else values.tolist()
        if isinstance(values, np.ndarray) and values.ndim == 1
        else values
        for key, values in infos.items()
    }


def _leaves(nested: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(nested, Mapping | tuple):
        items = nested.items() if isinstance(nested, Mapping) else enumerate(nested)
        for key, inner in items:
            yield from _leaves(inner, f"{before}/{key}" if before else str(key))
    else:
        yield before, nested


def _spec_json(spec: EnvSpec | str | None) -> str | None:
    """The specification as JSON; None where there is none, or where it holds what JSON cannot."""
    import gymnasium

    if not spec:
        return None
    try:
        return (gymnasium.spec(spec) if isinstance(spec, str) else spec).to_json()
    except TypeError:  # a callable as entry point: the environment cannot be made again from the data
        return None
    except gymnasium.error.Error as error:
        raise UserError(f"environment {spec!r} is unknown to gymnasium: {error}") from error


@contextmanager
def _beside(root: Path) -> Iterator[Path]:
    """A hidden folder in ``root`` that goes away in the end."""
    root.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".", suffix=".writing", dir=root))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _minari_root(root: Path) -> Iterator[None]:
    """Minari finds its folder by the environment alone."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before


def _create(
    root: Path, dataset_id: str, buffers: list[Any], metadata: Mapping[str, Any], *, jpeg_encoding: bool, **options: Any
) -> None:
    from minari import create_dataset_from_buffers

    with _minari_root(root), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for a link to code, a mail address, ...
        # Given the environment, Minari would make it, for its spaces and to measure scores: both are known.
        made = create_dataset_from_buffers(dataset_id, buffers, jpeg_encoding=jpeg_encoding, **options)
    made.storage.update_metadata({name: value for name, value in metadata.items() if value is not None})


def _append(
    folder: Path,
    copy: Path,
    dataset_id: str,
    buffers: list[Any],
    observation_space: Any,
    action_space: Any,
) -> None:
    shutil.copytree(folder, copy)
    storage = open_storage(copy / "data", dataset_id)
    for name, mine, theirs in (
        ("observations", observation_space, storage.observation_space),
        ("actions", action_space, storage.action_space),
    ):
        if mine != theirs:
            raise UserError(f"Minari data set {dataset_id!r}: {name} to append are {mine}, it has {theirs}")
    storage.update_episodes(buffers)


def _publish(temporary: Path, dataset_id: str, root: Path) -> None:
    """Rename the finished data set to its place, and give its namespaces the file by which Minari knows them."""
    folder = root / dataset_id
    folder.parent.mkdir(parents=True, exist_ok=True)
    for parent in list(Path(dataset_id).parents)[:-1]:
        mark = parent / "namespace_metadata.json"
        if (temporary / mark).is_file() and not (root / mark).exists():
            shutil.copyfile(temporary / mark, root / mark)
    (temporary / dataset_id).chmod(0o755)
    if folder.exists():
        os.replace(folder, temporary / "before")
    os.replace(temporary / dataset_id, folder)
