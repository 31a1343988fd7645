"""Scenes that are simulated and drawn: each clip once, then read from the memory map."""

from __future__ import annotations

import hashlib
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from domains.video.data.clips import SPLITS, FrameWriter
from domains.video.data.mapped import MappedSource
from flowkit import atomic
from flowkit.data import Split
from flowkit.errors import UserError
from flowkit.random import mix_seed

#: Clips that are drawn between two looks at the disk: what an interruption costs.
PART = 20


@dataclass(frozen=True)
class Rendered:
    """One clip of a scene: L frames.

    Args:
        frames: uint8 (L, 3, H, W).
        actions: float32 (L - 1, A), or None.
        states: float32 (L, S), what is known of each frame, or None.
        labels: what is known of the clip: numbers, or lists of numbers of one length for all clips.
    """

    frames: np.ndarray
    actions: np.ndarray | None = None
    states: np.ndarray | None = None
    labels: Mapping[str, int | list[int]] = field(default_factory=dict)


class Scene(ABC):
    """A simulator with its renderer, opened in the process that draws."""

    #: Of the renderer, for the manifest: the same scene looks different in the last bit elsewhere.
    renderer: str = ""

    @abstractmethod
    def render(self, seed: int) -> Rendered:
        """One clip, a function of the seed alone."""

    def close(self) -> None:
        """Give back what is open."""


class RenderedSource(MappedSource):
    """Clips of a scene. Clip k of a split is a function of the arguments, the split and k, whatever the number of
    processes; drawing goes on where it was interrupted.

    Args:
        length: frames drawn of each clip; ``frames`` of them make what a clip of the split shows, so a longer one gives
            several.
        clips: drawn for the training split.
        validation: the same for validation.
        test: the same for the test split.
        workers: processes that draw; 0 draws in this one.
        options: see :class:`~domains.video.data.mapped.MappedSource`.
    """

    #: Frames per second.
    fps: float = 10.0
    #: Raised when a scene changes what it draws.
    version: int = 1

    def __init__(
        self,
        *,
        length: int = 30,
        clips: int = 2000,
        validation: int = 100,
        test: int = 300,
        workers: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.length, self.workers = length, workers
        self.counts: dict[Split, int] = {"train": clips, "validation": validation, "test": test}

    @abstractmethod
    def open_scene(self) -> Scene:
        """The scene; called in each process that draws.

        Raises:
            UserError: a package or library is missing.
        """

    def appearance(self) -> Mapping[str, Any]:
        """The arguments on which a clip depends beside size, length and seed (JSON values)."""
        return {}

    def check(self) -> None:
        """See :class:`~domains.video.data.mapped.MappedSource`."""
        super().check()
        span = (self.frames - 1) * self.stride + 1
        if self.length < span:
            raise UserError(
                f"data.init_args.length is {self.length}: clips of {self.frames} frames at stride {self.stride} need "
                f"{span}"
            )
        for name, count in self.counts.items():
            if count < (name == "train"):
                raise UserError(f"data has {count} clips in the {name} split: it needs at least {int(name == 'train')}")
        if self.workers < 0:
            raise UserError(f"data.init_args.workers is {self.workers}: it is a number of processes, or 0 for this one")

    def settings(self) -> Mapping[str, Any]:
        """See :class:`~domains.video.data.mapped.MappedSource`."""
        return {
            "version": self.version,
            "size": self.size,
            "length": self.length,
            "seed": self.seed,
            "counts": list(self.counts.values()),
            **self.appearance(),
        }

    def _numbers(self) -> Iterator[tuple[Split, int]]:
        """Seeds of all clips, split after split."""
        for place, name in enumerate(SPLITS):
            for number in range(self.counts[name]):
                yield name, mix_seed(self.seed, place, number)

    def fill(self, folder: Path) -> None:
        """Draw what is not drawn yet, then put it together."""
        from tqdm import tqdm

        parts = self.folder_of_frames.with_suffix(".parts")
        parts.mkdir(parents=True, exist_ok=True)
        seeds = [seed for _, seed in self._numbers()]
        files = {parts / f"{first:08d}.npz": seeds[first : first + PART] for first in range(0, len(seeds), PART)}
        missing = {path: group for path, group in files.items() if not path.is_file()}
        bar = tqdm(
            desc=f"drawing {self.source}",
            total=len(seeds),
            initial=len(seeds) - sum(map(len, missing.values())),
            unit="clip",
            mininterval=1.0,
            disable=None,
        )
        with bar:
            for drawn in self._draw(missing):
                bar.update(drawn)
        self._join(folder, list(files))
        shutil.rmtree(parts, ignore_errors=True)

    def _draw(self, missing: Mapping[Path, list[int]]) -> Iterator[int]:
        if not self.workers:
            scene: Scene | None = None
            try:
                for path, seeds in missing.items():
                    scene = scene or self.open_scene()
                    yield draw_part(scene, path, seeds)
            finally:
                if scene is not None:
                    scene.close()
            return
        # Not fork: neither OpenGL nor torch's threads survive it.
        with ProcessPoolExecutor(min(self.workers, max(len(missing), 1)), mp_context=get_context("spawn")) as pool:
            futures: list[Future[int]] = [pool.submit(_worker, self, path, seeds) for path, seeds in missing.items()]
            try:
                for future in as_completed(futures):
                    yield future.result()
            except BrokenProcessPool as error:
                raise UserError(
                    "a process that draws ended early: it ran out of memory, or a script started it outside of "
                    "'if __name__ == \"__main__\":'; data.init_args.workers 0 draws without other processes"
                ) from error
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _join(self, folder: Path, files: list[Path]) -> None:
        state = hashlib.blake2b(digest_size=16)
        rows: list[dict[str, Any]] = []
        renderers: set[str] = set()
        splits = [name for name, _ in self._numbers()]
        writer: FrameWriter | None = None
        for path in files:
            part = _read(path)
            count, length = part["frames"].shape[:2]
            renderers.add(str(part["renderer"]))
            arrays = [part.get(name) for name in ("frames", "actions", "states")]
            if writer is None:
                entries = [0 if array is None else array.shape[2] for array in arrays[1:]]
                size = part["frames"].shape[3:]
                writer = FrameWriter(folder, size=size, actions=entries[0], states=entries[1])
            with_rest = [None if array is None else array.reshape(count * length, *array.shape[2:]) for array in arrays]
            writer.add(with_rest[0], *with_rest[1:])  # pyright: ignore[reportArgumentType]
            for array in arrays:
                if array is not None:
                    state.update(np.ascontiguousarray(array).data)
            labels = {name[6:]: values.tolist() for name, values in part.items() if name.startswith("label_")}
            for row in range(count):
                rows.append(
                    {
                        "frames": length,
                        "fps": self.fps,
                        "split": splits[len(rows)],
                        "labels": {name: values[row] for name, values in labels.items()},
                    }
                )
        assert writer is not None
        with writer:
            writer.finish(
                {
                    "source": self.source,
                    "digest": state.hexdigest(),
                    "renderer": ", ".join(sorted(renderers)),
                    "videos": rows,
                }
            )

    def pieces(self) -> Mapping[str, np.ndarray]:
        """Whole clips, split after split."""
        found: dict[str, np.ndarray] = {}
        number = 0
        for name in SPLITS:
            videos = np.arange(number, number + self.counts[name])
            lengths = np.full(len(videos), self.length)
            found[name] = np.stack([videos, videos * self.length, lengths], axis=1)
            number += len(videos)
        return found

    def statistics(self) -> Mapping[str, Any]:
        """See :class:`~domains.video.data.mapped.MappedSource`; and ``digest`` (hash of all that was drawn) and
        ``renderer``.
        """
        manifest = self.mapped.manifest
        return {**super().statistics(), "digest": manifest["digest"], "renderer": manifest["renderer"]}


def draw_part(scene: Scene, path: Path, seeds: list[int]) -> int:
    """Draw the clips of ``seeds`` and write them to ``path`` (npz); returns their number."""
    drawn = [scene.render(seed) for seed in seeds]
    named: dict[str, Any] = {
        "frames": np.stack([clip.frames for clip in drawn]),
        "renderer": np.array(scene.renderer),
        **{f"label_{name}": np.asarray([clip.labels[name] for clip in drawn]) for name in drawn[0].labels},
    }
    if drawn[0].actions is not None:
        # Nothing follows the last frame.
        done = np.stack([clip.actions for clip in drawn if clip.actions is not None]).astype(np.float32)
        named["actions"] = np.pad(done, ((0, 0), (0, 1), (0, 0)))
    if drawn[0].states is not None:
        named["states"] = np.stack([clip.states for clip in drawn if clip.states is not None]).astype(np.float32)

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **named)

    atomic.write(path, save)
    return len(drawn)


#: The scene of a worker process, opened at its first part.
_SCENES: dict[str, Scene] = {}


def _worker(source: RenderedSource, path: Path, seeds: list[int]) -> int:
    if "scene" not in _SCENES:
        _SCENES["scene"] = source.open_scene()
    return draw_part(_SCENES["scene"], path, seeds)


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as part:
            return dict(part)
    except (OSError, ValueError) as error:
        raise UserError(f"drawn clips in {str(path)!r} cannot be read ({error}): delete the file") from error
