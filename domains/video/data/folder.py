"""Folders of video files: decoded once to memory-mapped frames, from which clips are read."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from domains.video.data.clips import ClipSamples, FrameWriter
from domains.video.data.direct import FileClips, FileFrames, save_indices
from domains.video.data.dividing import divided
from domains.video.data.index import VideoIndex, index_video
from domains.video.data.listing import SUFFIXES, Frames, Video, find_files, paced, seen_frames
from domains.video.data.mapped import MappedSource
from domains.video.data.reader import Fit, chunks, decode
from flowkit.errors import UserError


class VideoFolder(MappedSource):
    """All videos below a folder (or one file). Bad files are left out and named; more than 1 % of them (and more than
    one) is an error.

    Splits are by file: no frame of one is in another. Where there are too few files for the wanted splits, each is cut
    in time: first training, then validation, the last part test.

    Args:
        folder: where the files are, at any depth; or one file.
        window: side in pixels of the squares that clips show, scaled to ``size``; 0: the frame's whole middle. Where
            a clip's square lies is drawn. All videos have then one size.
        fps: frames per second to which videos are brought by leaving out or repeating frames; 0 leaves them.
        validation: share of the videos for validation, at least one where it is positive.
        test: the same for the test split.
        limit: take only the first so many files; 0 takes all.
        direct: keep no decoded frames: files are indexed once, and each batch is decoded from them. Slower, for sets
            that are too large for the disk; without ``window``.
        options: ``frames``, ``size`` (the shorter side is scaled to it, the middle of the longer one is kept) and
            others, see :class:`~domains.video.data.mapped.MappedSource`.
    """

    def __init__(
        self,
        folder: str,
        *,
        window: int = 0,
        fps: float = 0.0,
        validation: float = 0.05,
        test: float = 0.05,
        limit: int = 0,
        direct: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.folder, self.window, self.fps = folder, window, fps
        self.validation, self.test, self.limit, self.direct = validation, test, limit, direct

    @property
    def root(self) -> Path:
        """The folder, or the file."""
        return Path(self.folder).expanduser()

    @property
    def source(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
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

    @property
    def cut(self) -> bool:
        """Whether a ``window`` is given."""
        return self.window > 0

    def check(self) -> None:
        """See :class:`~domains.video.data.mapped.MappedSource`."""
        super().check()
        for name, value in (("fps", self.fps), ("window", self.window)):
            if value < 0:
                raise UserError(f"data.init_args.{name} is {value}: it is not negative")
        if self.direct and self.window:
            raise UserError("data.init_args.direct is true: squares of larger frames are cut from decoded ones only")
        if self.direct and type(self).open_video is not VideoFolder.open_video:
            raise UserError(
                f"data.init_args.direct is true: {type(self).__name__} is not read from video files, leave it out"
            )
        for name, value in (("windows", self.windows), ("candidates", self.candidates)):
            if value > 1 and not self.window:
                raise UserError(f"data.init_args.{name} is {value}: it is 1 without a window")

    def settings(self) -> Mapping[str, Any]:
        """See :class:`~domains.video.data.mapped.MappedSource`."""

        def stamp(path: Path) -> list[int]:
            about = path.stat()
            return [about.st_size, about.st_mtime_ns]

        return {
            "size": self.size,
            "window": self.window,
            "fps": self.fps,
            "files": [[video.key, *stamp(video.path)] for video in self._chosen()],
            "root": str(self.root.resolve()),
            **({"direct": True} if self.direct else {}),
        }

    def fill(self, folder: Path) -> None:
        """Decode all videos, or index them."""
        from tqdm import tqdm

        if self.direct:
            self._index(folder)
            return
        videos = self._chosen()
        bad: dict[str, str] = {}
        rows: list[dict[str, Any]] = []
        bar = tqdm(videos, desc=f"decoding {self.source}", unit="file", mininterval=1.0, disable=None)
        fit = Fit(self.size, self.window)
        with ExitStack() as stack:
            writer: FrameWriter | None = None
            for video in bar:
                before = writer.frames if writer else 0
                try:
                    given = self.open_video(video, fit)
                    for part in chunks(paced(given, self.fps, video.path)):
                        if writer is None:
                            actions = 0 if given.actions is None else given.actions.shape[1]
                            writer = stack.enter_context(FrameWriter(folder, size=part.shape[2:], actions=actions))
                        if part.shape[2:] != writer.size:
                            raise UserError(f"frames of {str(video.path)!r} have another size than those before")
                        at = writer.frames - before
                        writer.add(part, None if given.actions is None else given.actions[at : at + len(part)])
                except UserError as error:
                    if writer is not None:
                        writer.drop(writer.frames - before)
                    bad[video.key] = str(error)
                    self._refuse(bad, len(videos))
                    continue
                assert writer is not None
                rows.append(self._row(video, writer.frames - before, given.fps, given.digest))
            if writer is None or not rows:
                raise UserError(next(iter(bad.values())))
            writer.finish({"source": self.source, "videos": rows, "skipped": bad})
        _tell(bad)

    def _row(self, video: Video, frames: int, fps: float, digest: str) -> dict[str, Any]:
        """What the manifest says of a video."""
        return {
            "key": video.key,
            "frames": frames,
            "fps": self.fps or fps,
            "digest": digest,
            "group": video.group or video.key,
            "split": video.split,
            "labels": dict(video.labels),
        }

    def _index(self, folder: Path) -> None:
        from tqdm import tqdm

        bad: dict[str, str] = {}
        rows: list[dict[str, Any]] = []
        indices: list[VideoIndex] = []
        numbers: list[np.ndarray] = []
        videos = self._chosen()
        bar = tqdm(videos, desc=f"indexing {self.source}", unit="file", mininterval=1.0, disable=None)
        for video in bar:
            try:
                index = index_video(video.path)
                numbers.append(seen_frames(index.times, index.fps, self.fps, video.path))
            except UserError as error:
                bad[video.key] = str(error)
                self._refuse(bad, len(videos))
                continue
            indices.append(index)
            rows.append(self._row(video, len(numbers[-1]), index.fps, index.digest))
        if not rows:
            raise UserError(next(iter(bad.values())))
        save_indices(folder, indices, numbers, {"source": self.source, "videos": rows, "skipped": bad})
        _tell(bad)

    def open_folder(self, folder: Path) -> Any:
        """See :class:`~domains.video.data.mapped.MappedSource`."""
        return FileFrames(folder, Fit(self.size), cache=self.cache) if self.direct else super().open_folder(folder)

    def clips(
        self,
        starts: np.ndarray,
        names: Mapping[str, np.ndarray],
        *,
        corners: np.ndarray | None,
        flipped: np.ndarray | None,
    ) -> ClipSamples:
        """See :class:`~domains.video.data.mapped.MappedSource`."""
        if not self.direct:
            return super().clips(starts, names, corners=corners, flipped=flipped)
        return FileClips(self.mapped, starts, frames=self.frames, stride=self.stride, names=names, flipped=flipped)

    def _refuse(self, bad: Mapping[str, str], count: int) -> None:
        """An error where more than 1 % of the files, and more than one, are bad."""
        if len(bad) > max(1, count // 100):
            raise UserError(
                f"{len(bad)} of the {count} videos in {self.folder!r} are bad already, more than 1 %: take them away "
                f"or mend them ({'; '.join(bad.values())})"
            )

    def pieces(self) -> Mapping[str, np.ndarray]:
        """Divided by :func:`~domains.video.data.dividing.divided`."""
        rows = self.mapped.manifest["videos"]
        return divided(rows, validation=self.validation, test=self.test, seed=self.seed)


def _tell(bad: Mapping[str, str]) -> None:
    """Name the videos that were left out: when all is done, so that a refusal is the only line that is seen."""
    for reason in bad.values():
        print(f"left out: {reason}", file=sys.stderr)
