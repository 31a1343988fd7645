"""Folders of video files: decoded once to memory-mapped frames, from which clips are read."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from domains.video.data.clips import (
    FORMAT,
    SPLITS,
    FrameWriter,
    MappedClips,
    MappedFrames,
    cache_root,
    check_clip,
    clip_starts,
    split_number,
)
from domains.video.data.dividing import divided
from domains.video.data.index import index_video
from domains.video.data.listing import SUFFIXES, Frames, Video, find_files, paced
from domains.video.data.reader import Fit, chunks, decode
from domains.video.data.windows import draw_corners
from flowkit import atomic
from flowkit.data import DataSource, Split
from flowkit.errors import UserError, writing


class VideoFolder(DataSource):
    """All videos below a folder (or one file). Bad files are left out and named; more than 1 % of them (and more than
    one) is an error.

    Splits are by file: no frame of one is in another. Where there are too few files for the wanted splits, each is cut
    in time: first training, then validation, the last part test.

    Args:
        folder: where the files are, at any depth; or one file.
        frames: of a clip.
        size: height and width: the shorter side is scaled to it, the middle of the longer one is kept.
        stride: frames from one frame of a clip to its next.
        hop: frames from the start of a training clip to the start of the next; 0: they have none in common. Clips of
            the other splits never have frames in common.
        window: side in pixels of the squares that clips show, scaled to ``size``; 0: the frame's whole middle. Where
            a clip's square lies is drawn. All videos have then one size.
        windows: clips, each with a square of its own, from every start of a clip.
        candidates: of so many squares drawn for a clip, the one is taken in which most changes; 1: any.
        fps: frames per second to which videos are brought by leaving out or repeating frames; 0 leaves them.
        validation: share of the videos for validation, at least one where it is positive.
        test: the same for the test split.
        limit: take only the first so many files; 0 takes all.
        seed: of the division into splits.
        terms: licence of the videos, for the statistics.
        cache: where decoded frames go; empty means ``$FLOWKIT_CACHE`` or the user's cache folder.
    """

    def __init__(
        self,
        folder: str,
        *,
        frames: int = 16,
        size: int = 64,
        stride: int = 1,
        hop: int = 1,
        window: int = 0,
        windows: int = 1,
        candidates: int = 1,
        fps: float = 0.0,
        validation: float = 0.05,
        test: float = 0.05,
        limit: int = 0,
        seed: int = 0,
        terms: str = "unknown",
        cache: str = "",
    ) -> None:
        self.folder, self.frames, self.size, self.stride, self.hop = folder, frames, size, stride, hop
        self.window, self.windows, self.candidates = window, windows, candidates
        self.fps, self.validation, self.test, self.limit, self.seed = fps, validation, test, limit, seed
        self.licence, self.cache = terms, cache

    @property
    def root(self) -> Path:
        """The folder, or the file."""
        return Path(self.folder).expanduser()

    @property
    def source(self) -> str:
        """Where the videos come from, in a few words."""
        return f"videos in {self.root.name}"

    def videos(self) -> list[Video]:
        """All videos in a fixed order; opens none. A layout of a known data set overrides it.

        Raises:
            UserError: there is no such folder, or no video in it.
        """
        return [Video(key, path) for key, path in find_files(self.root, SUFFIXES)]

    def open_video(self, video: Video, fit: Fit) -> Frames:
        """What a video gives; called once a video, when the cache is made.

        Raises:
            UserError: it is bad. Reading the frames may raise it too.
        """
        index = index_video(video.path)
        return Frames(index.fps, index.digest, len(index), decode(video.path, fit), index.times)

    def _chosen(self) -> list[Video]:
        if self.limit < 0:
            raise UserError(f"data.init_args.limit is {self.limit}: it is a number of files, or 0 for all")
        videos = self.videos()
        return videos[: self.limit] if self.limit else videos

    def _folder(self, videos: list[Video]) -> Path:
        def stamp(path: Path) -> list[int]:
            about = path.stat()
            return [about.st_size, about.st_mtime_ns]

        settings = {
            "format": FORMAT,
            "class": type(self).__name__,
            "size": self.size,
            "window": self.window,
            "fps": self.fps,
            "files": [[video.key, *stamp(video.path)] for video in videos],
            "root": str(self.root.resolve()),
        }
        name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        root = Path(self.cache).expanduser() if self.cache else cache_root()
        return root / "video" / f"{type(self).__name__.lower()}-{name}"

    @cached_property
    def mapped(self) -> MappedFrames:
        """The frames of all videos; decodes them where that was not done.

        Raises:
            UserError: there is no video, too many are bad, or the cache cannot be written.
        """
        check_clip(frames=self.frames, stride=self.stride, size=self.size)
        for name, value in (("hop", self.hop), ("fps", self.fps), ("window", self.window)):
            if value < 0:
                raise UserError(f"data.init_args.{name} is {value}: it is not negative")
        for name, value in (("windows", self.windows), ("candidates", self.candidates)):
            if value < 1 or (value > 1 and not self.window):
                raise UserError(f"data.init_args.{name} is {value}: it is at least 1, and 1 without a window")
        videos = self._chosen()
        folder = self._folder(videos)
        if not (folder / "manifest.json").is_file():
            with writing(folder, "decoded frames to "):
                try:
                    atomic.write_folder(folder, lambda temporary: self._fill(temporary, videos))
                except OSError:
                    # Another process was faster; its folder is as good.
                    if not (folder / "manifest.json").is_file():
                        raise
        return MappedFrames(folder)

    def _fill(self, folder: Path, videos: list[Video]) -> None:
        from tqdm import tqdm

        bad: dict[str, str] = {}
        rows: list[dict[str, Any]] = []
        bar = tqdm(videos, desc=f"decoding {self.source}", unit="file", mininterval=1.0, file=sys.stderr)
        fit = Fit(self.size, self.window)
        with ExitStack() as stack:
            writer: FrameWriter | None = None
            for video in bar:
                before = writer.frames if writer else 0
                try:
                    given = self.open_video(video, fit)
                    for part in chunks(paced(given, self.fps, video.path)):
                        if writer is None:
                            writer = stack.enter_context(FrameWriter(folder, size=part.shape[2:]))
                        if part.shape[2:] != writer.size:
                            raise UserError(f"frames of {str(video.path)!r} have another size than those before")
                        writer.add(part)
                except UserError as error:
                    if writer is not None:
                        writer.drop(writer.frames - before)
                    bad[video.key] = str(error)
                    bar.write(f"left out: {error}", file=sys.stderr)
                    self._refuse(bad, len(videos))
                    continue
                assert writer is not None
                rows.append(
                    {
                        "key": video.key,
                        "frames": writer.frames - before,
                        "fps": self.fps or given.fps,
                        "digest": given.digest,
                        "group": video.group or video.key,
                        "split": video.split,
                        "labels": dict(video.labels),
                    }
                )
            if writer is None or not rows:
                raise UserError(next(iter(bad.values())))
            writer.finish({"source": self.source, "videos": rows, "skipped": bad})

    def _refuse(self, bad: Mapping[str, str], count: int) -> None:
        """An error where more than 1 % of the files, and more than one, are bad."""
        if len(bad) > max(1, count // 100):
            raise UserError(
                f"{len(bad)} of the {count} videos in {self.folder!r} are bad already, more than 1 %: take them away "
                f"or mend them ({'; '.join(bad.values())})"
            )

    def prepare(self) -> None:
        """Decode all videos to the cache; returns at once when that was done."""
        _ = self.mapped

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        return self.mapped.manifest["videos"]

    @cached_property
    def _ranges(self) -> Mapping[str, np.ndarray]:
        return divided(self._rows, validation=self.validation, test=self.test, seed=self.seed)

    def split(self, name: Split) -> MappedClips:
        """The clips of one split, in the order of the videos; attributes: ``video`` (its number) and its labels.

        Raises:
            UserError: no such split; no clip fits into any of its videos.
        """
        split_number(name)
        ranges = self._ranges[name]
        hop = self.hop if name == "train" else 0
        piece, first = clip_starts(ranges[:, 2], frames=self.frames, stride=self.stride, hop=hop)
        if not len(piece) and (len(ranges) or name == "train"):
            span = (self.frames - 1) * self.stride + 1
            longest = int(ranges[:, 2].max(initial=0))
            raise UserError(
                f"no clip of {self.frames} frames at stride {self.stride} ({span} frames of video) fits into the "
                f"{name} split of {self.folder!r}: its longest piece has {longest} frames"
            )
        video = ranges[piece, 0]
        names = sorted({name for row in self._rows for name in row["labels"]})
        labels = {name: np.asarray([row["labels"].get(name, -1) for row in self._rows])[video] for name in names}
        starts = ranges[piece, 1] + first
        attributes: dict[str, np.ndarray] = {"video": video, **labels}
        corners = None
        if self.window:
            corners = draw_corners(
                self.mapped.frames,
                starts,
                span=(self.frames - 1) * self.stride + 1,
                size=self.size,
                windows=self.windows,
                candidates=self.candidates,
                seed=self.seed,
            ).reshape(-1, 2)
            starts = np.repeat(starts, self.windows)
            attributes = {name: np.repeat(values, self.windows) for name, values in attributes.items()}
            attributes["corner"] = corners
        return MappedClips(
            self.mapped,
            starts,
            frames=self.frames,
            stride=self.stride,
            names=attributes,
            corners=corners,
            size=self.size,
        )

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
            "videos": {name: len(self._ranges[name]) for name in SPLITS},
            "video_frames": len(self.mapped.frames),
            "skipped": self.mapped.manifest["skipped"],
            "folder": str(self.mapped.folder),
        }
