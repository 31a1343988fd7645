"""Recording a scripted expert as a Minari data set: parallel, resumable, the same result either way."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import sys
import zipfile
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from domains.policy.attempts import STARTS, Script, attempts
from flowkit import atomic
from flowkit.caching import cache_root
from flowkit.errors import UserError, writing

if TYPE_CHECKING:
    from domains.policy.data.minari_writer import RecordedEpisode
    from domains.policy.envs.experts import Expert

#: Attempts in one file of an unfinished recording.
SHARD = 20


@dataclass(frozen=True)
class Recording:
    """What came out.

    Args:
        dataset: Minari's id.
        folder: where it lies.
        episodes: that were written.
        steps: of these.
        attempts: that were made for them.
        failures: attempts without success.
    """

    dataset: str
    folder: Path
    episodes: int
    steps: int
    attempts: int
    failures: int


def record(
    env_id: str,
    dataset: str = "",
    *,
    episodes: int = 100,
    seed: int = 0,
    noise: float | None = None,
    only_successes: bool = True,
    workers: int = 1,
    root: str = "",
    append: bool = False,
    expert: Callable[[], Expert] | None = None,
) -> Recording:
    """Let a scripted expert act and keep its episodes as a Minari data set. Shows progress.

    Episode i is a function of ``seed`` and i alone. Attempts are kept in the cache until all are there, so that a
    recording that was killed goes on where it stopped when it is called again, with the same result.

    Args:
        env_id: gymnasium's id of an environment with an expert.
        dataset: Minari's id to write, ``(namespace/)name-vN``; empty: :func:`default_dataset`.
        episodes: how many to write.
        seed: other seeds give other starts (all below 100,000, which leaves evaluation's starts unseen) and chances.
        noise: standard deviation of what the expert adds to its actions; None: its own.
        only_successes: leave failed attempts out and make more.
        workers: processes.
        root: folder of the data sets; empty means ``$MINARI_DATASETS_PATH``, else Minari's own folder.
        append: add to the data set where it is there (use another seed).
        expert: makes another expert; it must be importable by name for more than one worker. Such a recording cannot
            be resumed.

    Raises:
        UserError: no such environment, no expert, the data set is there already (or, to append, holds this seed's
            episodes), or the expert fails too often.
    """
    from domains.policy.data.minari import datasets_root, recorded_seeds
    from domains.policy.data.minari_writer import check_dataset_id, write_minari

    dataset = dataset or default_dataset(env_id)
    check_dataset_id(dataset)  # before any work
    if (datasets_root(root) / dataset).exists() and not append:
        raise UserError(
            f"the data set {dataset!r} is already in {str(datasets_root(root))!r}: choose another --out (...-v1), or "
            "--append with another --seed"
        )
    script = Script(env_id, seed=seed, noise=noise, expert=expert)
    if append and not recorded_seeds(dataset, root).isdisjoint(map(script.start, range(episodes))):
        # The same episode twice might lie in the training and in the validation split.
        raise UserError(f"the data set {dataset!r} holds episodes from the starts of seed {seed}: give another --seed")
    env, actor = script.make()
    env.close()
    made, shown = 0, _Shown(episodes)
    store = None if expert is not None else Store(script)
    failures = 0
    kept: list[RecordedEpisode] = []
    try:
        with shown:
            for episode in chosen(script, episodes, only_successes=only_successes, workers=workers, store=store):
                made += 1
                failures += not episode.success
                if episode.success or not only_successes:
                    kept.append(episode)
                shown.step(len(kept), failures)
    except KeyboardInterrupt:
        if store is not None and made >= SHARD:
            print(
                f"{made // SHARD * SHARD} attempts are kept in {store.folder}: the same call goes on from there",
                file=sys.stderr,
            )
        raise
    noise_text = f"noise {actor.noise:g}"
    folder = write_minari(
        dataset,
        kept,
        observation_space=env.observation_space,
        action_space=env.action_space,
        env_spec=env.unwrapped.spec,
        algorithm_name=f"scripted expert {type(actor).__name__}, {noise_text}",
        description=f"{len(kept)} episodes of {env_id}, seed {seed}, {noise_text}; {made} attempts, {failures} failed"
        + (" and were left out" if only_successes and failures else ""),
        root=root,
        append=append,
    )
    if store is not None:
        store.remove()
    return Recording(dataset, folder, len(kept), sum(len(e.actions) for e in kept), made, failures)


def default_dataset(env_id: str) -> str:
    """``FlowKit/Fork-v0`` -> ``fork/expert-v0``."""
    name = env_id.rpartition("/")[2].rpartition("-v")[0] or env_id
    return f"{name.lower().replace('_', '-')}/expert-v0"


def chosen(
    script: Script, episodes: int, *, only_successes: bool, workers: int = 1, store: Store | None = None
) -> Generator[RecordedEpisode]:
    """Attempts 0, 1, ... until ``episodes`` of them count (successes, or all).

    Raises:
        UserError: no episode is asked for, the seed is negative, or the expert fails too often.
    """
    if episodes < 1:
        raise UserError(f"a recording has at least one episode, got episodes={episodes}")
    if script.seed < 0:
        raise UserError(f"a seed is 0 or more, got {script.seed}")
    most = min(STARTS, 5 * episodes + 20) if only_successes else episodes
    if episodes > STARTS:
        raise UserError(f"a recording has at most {STARTS:,} episodes (its starts), got {episodes:,}")
    counted = 0
    stream = _stored(script, range(most), workers, store) if store else attempts(script, range(most), workers=workers)
    try:
        for made, (_, episode) in enumerate(stream, start=1):
            counted += bool(episode.success) or not only_successes
            yield episode
            if counted == episodes:
                return
            if made >= 20 and counted == 0:
                break
    finally:
        stream.close()
    raise UserError(
        f"the expert of {script.env_id} succeeded in {counted} of {made} attempts, {episodes} successes were asked "
        "for: ask for less noise, or keep failures as well (--no-only-successes)"
    )


class Store:
    """Attempts of an unfinished recording, in files of :data:`SHARD` attempts each in the cache."""

    def __init__(self, script: Script) -> None:
        import gymnasium

        self.settings = {
            "format": 1,
            "environment": script.env_id,
            "seed": script.seed,
            "noise": script.noise,
            "gymnasium": gymnasium.__version__,
        }
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:12]
        self.folder = cache_root() / "policy" / f"recording-{digest}"

    def path(self, shard: int) -> Path:
        """File of the attempts from ``shard * SHARD`` on."""
        return self.folder / f"attempts-{shard * SHARD:06d}.npz"

    def write(self, shard: int, episodes: list[RecordedEpisode]) -> None:
        """Keep one shard, atomically."""
        arrays: dict[str, np.ndarray] = {}
        for i, episode in enumerate(episodes):
            for name in _ARRAYS:
                arrays[f"{i}/{name}"] = getattr(episode, name)
            arrays[f"{i}/numbers"] = np.array([episode.seed, bool(episode.success)])
            arrays.update(_flat(episode.observations, f"{i}/observations"))
        path = self.path(shard)
        with writing(path, "recorded attempts to "):
            atomic.write(path, lambda temporary: np.savez(temporary, **arrays))  # pyright: ignore[reportArgumentType]

    def read(self, shard: int) -> list[RecordedEpisode] | None:
        """The attempts of one shard; None where they are not (or no more) there."""
        from domains.policy.data.minari_writer import RecordedEpisode

        try:
            with np.load(self.path(shard)) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None
        episodes = []
        for i in range(SHARD):
            start, success = arrays[f"{i}/numbers"].tolist()
            episodes.append(
                RecordedEpisode(
                    observations=_nested(arrays, f"{i}/observations"),
                    seed=start,
                    success=bool(success),
                    **{name: arrays[f"{i}/{name}"] for name in _ARRAYS},
                )
            )
        return episodes

    def remove(self) -> None:
        """Forget all of it: the recording is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)


_ARRAYS = ("actions", "rewards", "terminations", "truncations")


def _stored(script: Script, indices: range, workers: int, store: Store) -> Generator[tuple[int, RecordedEpisode]]:
    """Attempts that are in the store, then those that are made; whole shards of these go into the store."""
    shard = 0
    while shard * SHARD < len(indices) and (episodes := store.read(shard)) is not None:
        yield from zip(itertools.count(shard * SHARD), episodes)
        shard += 1
    fresh: list[RecordedEpisode] = []
    stream = attempts(script, range(shard * SHARD, len(indices)), workers=workers)
    try:
        for index, episode in stream:
            fresh.append(episode)
            if len(fresh) == SHARD:
                store.write(shard, fresh)
                shard, fresh = shard + 1, []
            yield index, episode
    finally:
        stream.close()


def _flat(tree: Any, name: str) -> dict[str, np.ndarray]:
    """Nested dictionaries and tuples -> arrays by path; a tuple's parts are ``#0``, ``#1``, ..."""
    if isinstance(tree, dict):
        return {path: leaf for key in tree for path, leaf in _flat(tree[key], f"{name}|{key}").items()}
    if isinstance(tree, tuple):
        return {path: leaf for i, part in enumerate(tree) for path, leaf in _flat(part, f"{name}|#{i}").items()}
    return {name: tree}


def _nested(arrays: dict[str, np.ndarray], name: str) -> Any:
    """The inverse of :func:`_flat`."""
    if name in arrays:
        return arrays[name]
    keys = list(dict.fromkeys(path[len(name) + 1 :].split("|")[0] for path in arrays if path.startswith(f"{name}|")))
    parts = {key: _nested(arrays, f"{name}|{key}") for key in keys}
    return tuple(parts.values()) if keys and keys[0].startswith("#") else parts


class _Shown:
    """A line of progress: kept episodes, and how many attempts failed."""

    def __init__(self, episodes: int) -> None:
        from tqdm import tqdm

        self.bar = tqdm(total=episodes, desc="recording", unit="episode", mininterval=0.5, disable=None)

    def __enter__(self) -> _Shown:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def step(self, kept: int, failures: int) -> None:
        """Show the numbers."""
        if failures:
            self.bar.set_postfix_str(f"{failures} failed", refresh=False)
        self.bar.update(kept - self.bar.n)
