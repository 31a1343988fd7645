"""Sources whose frames are made once, kept in a folder and memory-mapped; clips are cut from them."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from domains.video.data.clips import (
    FORMAT,
    SPLITS,
    ClipSamples,
    ClipSource,
    MappedClips,
    MappedFrames,
    check_clip,
    clip_starts,
    split_number,
)
from domains.video.data.windows import draw_corners
from flowkit import atomic
from flowkit.caching import cache_root
from flowkit.data import Split
from flowkit.errors import UserError, writing


class MappedSource(ClipSource):
    """Clips of frames that are made once. A subclass writes :meth:`settings`, :meth:`fill` and :meth:`pieces`.

    Args:
        frames: of a clip.
        size: height and width of what clips show.
        stride: frames from one frame of a clip to its next.
        hop: frames from the start of a training clip to the start of the next; 0: they have none in common. Clips of
            the other splits never have frames in common.
        windows: clips, each with a square of its own, from every start of a clip, where clips show squares of larger
            frames.
        candidates: of so many squares drawn for a clip, the one is taken in which most changes; 1: any.
        flips: each training clip is there a second time, seen in a mirror.
        seed: of what is drawn.
        terms: licence of the videos, for the statistics.
        cache: where the frames go; empty means ``$FLOWKIT_CACHE`` or the user's cache folder.
    """

    #: Where the videos come from, in a few words.
    source: str = "videos"
    fitting = ("frames", "size")

    def __init__(
        self,
        *,
        frames: int = 16,
        size: int = 64,
        stride: int = 1,
        hop: int = 1,
        windows: int = 1,
        candidates: int = 1,
        flips: bool = False,
        seed: int = 0,
        terms: str = "unknown",
        cache: str = "",
    ) -> None:
        self.frames, self.size, self.stride, self.hop = frames, size, stride, hop
        self.windows, self.candidates, self.flips = windows, candidates, flips
        self.seed, self.licence, self.cache = seed, terms, cache
        self._corners: dict[str, np.ndarray] = {}

    # --- what a subclass writes -------------------------------------------------------------------------------------

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """All that the frames depend on (JSON values): other settings, another folder.

        Raises:
            UserError: the files are not there.
        """

    @abstractmethod
    def fill(self, folder: Path) -> None:
        """Write the frames with :class:`~domains.video.data.clips.FrameWriter`.

        The manifest holds ``videos``, one entry each with ``frames``, ``fps`` and ``labels`` (numbers by name), and may
        hold ``skipped``.
        """

    @abstractmethod
    def pieces(self) -> Mapping[str, np.ndarray]:
        """For each split int64 (n, 3): number of a video, first frame of a piece of it in all frames, its length."""

    @property
    def cut(self) -> bool:
        """Whether clips show squares of larger frames."""
        return False

    def describe(self, starts: np.ndarray) -> Mapping[str, np.ndarray]:
        """Further attributes of the clips that begin at the frames ``starts`` (n,), by name, (n, ...)."""
        return {}

    def check(self) -> None:
        """Check the arguments.

        Raises:
            UserError: some make no clips.
        """
        check_clip(frames=self.frames, stride=self.stride, size=self.size)
        if self.hop < 0:
            raise UserError(f"data.init_args.hop is {self.hop}: it is not negative")
        for name, value in (("windows", self.windows), ("candidates", self.candidates)):
            if value < 1:
                raise UserError(f"data.init_args.{name} is {value}: it is at least 1")

    # --- the folder -------------------------------------------------------------------------------------------------

    @property
    def folder_of_frames(self) -> Path:
        """Where the frames are or will be."""
        about = {"format": FORMAT, "class": type(self).__name__, **self.settings()}
        name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
        return cache_root(self.cache) / "video" / f"{type(self).__name__.lower()}-{name}"

    @cached_property
    def mapped(self) -> Any:
        """The frames; makes them where that was not done.

        Raises:
            UserError: they cannot be made, or the cache cannot be written.
        """
        self.check()
        folder = self.folder_of_frames
        with writing(folder, "frames to "):
            atomic.write_folder_once(folder, self.fill)
        return self.open_folder(folder)

    def open_folder(self, folder: Path) -> Any:
        """What was written to ``folder``: a :class:`~domains.video.data.clips.MappedFrames`, or what stands for it."""
        return MappedFrames(folder)

    def prepare(self) -> None:
        """Make the frames; returns at once when that was done."""
        _ = self.mapped

    # --- clips ------------------------------------------------------------------------------------------------------

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        return self.mapped.manifest["videos"]

    @cached_property
    def _pieces(self) -> Mapping[str, np.ndarray]:
        return self.pieces()

    def split(self, name: Split) -> Any:
        """The clips of one split, in the order of the videos; attributes: ``video`` (its number), its labels, what
        :meth:`describe` says, ``corner`` of squares and ``flipped`` where there are some.

        Raises:
            UserError: no such split; no clip fits into any of its videos.
        """
        split_number(name)
        _ = self.mapped
        pieces = self._pieces[name]
        span = (self.frames - 1) * self.stride + 1
        hop = self.hop if name == "train" else 0
        piece, first = clip_starts(pieces[:, 2], frames=self.frames, stride=self.stride, hop=hop)
        if not len(piece) and (len(pieces) or name == "train"):
            raise UserError(
                f"no clip of {self.frames} frames at stride {self.stride} ({span} frames of video) fits into the "
                f"{name} split of {self.source}: its longest piece has {int(pieces[:, 2].max(initial=0))} frames; "
                "lower data.init_args.frames or stride, give longer videos"
                + (f", or set data.init_args.{name} to 0" if name != "train" and hasattr(self, name) else "")
            )
        video, starts = pieces[piece, 0], pieces[piece, 1] + first
        labels = sorted({label for row in self._rows for label in row["labels"]})
        attributes: dict[str, np.ndarray] = {"video": video}
        for label in labels:
            attributes[label] = np.asarray([row["labels"].get(label, -1) for row in self._rows])[video]
        attributes.update(self.describe(starts))
        corners, flipped = None, None
        if self.cut:
            corners = self._squares(name, starts, span)
            starts = np.repeat(starts, self.windows)
            attributes = {label: np.repeat(values, self.windows, axis=0) for label, values in attributes.items()}
            attributes["corner"] = corners
        if self.flips and name == "train":
            if self.mapped.actions is not None:
                raise UserError("data.init_args.flips is true: a mirror would need other actions, leave it out")
            flipped = np.repeat([False, True], len(starts))
            starts = np.tile(starts, 2)
            attributes = {label: np.concatenate([values, values]) for label, values in attributes.items()}
            attributes["flipped"] = flipped
            corners = None if corners is None else np.tile(corners, (2, 1))
        return self.clips(starts, attributes, corners=corners, flipped=flipped)

    def clips(
        self,
        starts: np.ndarray,
        names: Mapping[str, np.ndarray],
        *,
        corners: np.ndarray | None,
        flipped: np.ndarray | None,
    ) -> ClipSamples:
        """The clips that begin at the frames ``starts``; see :class:`~domains.video.data.clips.MappedClips`."""
        return MappedClips(
            self.mapped,
            starts,
            frames=self.frames,
            stride=self.stride,
            names=names,
            corners=corners,
            size=self.size,
            flipped=flipped,
        )

    def _squares(self, name: str, starts: np.ndarray, span: int) -> np.ndarray:
        # Looking for movement reads frames: once a split.
        if name not in self._corners:
            self._corners[name] = draw_corners(
                self.mapped.frames,
                starts,
                span=span,
                size=self.size,
                windows=self.windows,
                candidates=self.candidates,
                seed=self.seed,
            ).reshape(-1, 2)
        return self._corners[name]

    def statistics(self) -> Mapping[str, Any]:
        """``frames``, ``size``, ``channels``, ``fps`` (of clips, the median of the videos), ``clips`` (of each split),
        ``source``, ``licence``, ``actions``, and ``videos`` (of each split), ``video_frames``, ``stride``, ``skipped``
        (bad files with the reasons) and ``folder`` (the cache).
        """
        fps = [row["fps"] for row in self._rows if row["fps"]]
        actions = self.mapped.actions
        return {
            "frames": self.frames,
            "size": self.size,
            "channels": 3,
            "fps": round(float(np.median(fps)) / self.stride, 3) if fps else 0.0,
            "clips": {name: len(self.split(name)) for name in SPLITS},
            "source": self.source,
            "licence": self.licence,
            "actions": 0 if actions is None else actions.shape[1] * self.stride,
            "stride": self.stride,
            "videos": {name: len(np.unique(self._pieces[name][:, 0])) for name in SPLITS},
            "video_frames": sum(row["frames"] for row in self._rows),
            "skipped": self.mapped.manifest.get("skipped", {}),
            "folder": str(self.mapped.folder),
        }
