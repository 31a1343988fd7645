"""Known sets of videos as they are when unpacked: where the files are, and which belong to which split."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from domains.video.data.folder import VideoFolder
from domains.video.data.listing import SUFFIXES, Frames, Video, find_files
from domains.video.data.pictures import digest_of, fitted, picture_folders, pictures_in, read_pictures
from domains.video.data.reader import Fit
from domains.video.data.robot_records import read_robot
from domains.video.data.tfrecords import record_spans
from flowkit.data import Split
from flowkit.errors import UserError

#: Actions of KTH in the order of the label ``action``.
KTH_ACTIONS = ("boxing", "handclapping", "handwaving", "jogging", "running", "walking")
_KTH = re.compile(r"person(\d+)_([a-z]+)_d(\d)", re.IGNORECASE)
_CLEVRER = re.compile(r"video_(\d+)$", re.IGNORECASE)


class KTH(VideoFolder):
    """KTH's human actions (Schuldt, Laptev and Caputo 2004): files like ``person01_boxing_d1_uncomp.avi`` at any depth.

    A person is in one split only. Labels of clips: ``action`` (see :data:`KTH_ACTIONS`), ``person``, ``scene`` (1-4).

    Args:
        folder: where the files are.
        frames: of a clip; 40 where 10 are known and 30 predicted.
        test_from: the first person of the test split: 17 as is usual in prediction (persons 1 to 16 are learnt from).
        validation: share of the other persons.
        options: see :class:`VideoFolder`.
    """

    def __init__(
        self, folder: str, *, frames: int = 40, test_from: int = 17, validation: float = 0.07, **options: Any
    ) -> None:
        super().__init__(folder, frames=frames, validation=validation, **options)
        self.test_from = test_from

    def videos(self) -> list[Video]:
        """See :class:`VideoFolder`."""
        found: list[Video] = []
        for key, path in find_files(self.root, SUFFIXES):
            name = _KTH.match(path.name)
            if name is None or name[2].lower() not in KTH_ACTIONS:
                continue
            person, action = int(name[1]), KTH_ACTIONS.index(name[2].lower())
            split: Split | None = "test" if person >= self.test_from else None
            labels = {"action": action, "person": person, "scene": int(name[3])}
            found.append(Video(key, path, f"person{person:02d}", split, labels))
        if not found:
            raise UserError(f"{self.folder!r} is not KTH: no file is named like person01_boxing_d1_uncomp.avi")
        return found


class CLEVRER(VideoFolder):
    """CLEVRER's collisions (Yi et al. 2020): ``video_00000.mp4`` to ``video_19999.mp4`` at any depth; up to 9999 they
    are learnt from, up to 14999 for validation, and the rest is the test split. Label of clips: ``number``.

    Args:
        folder: where the files are.
        frames: of a clip; 16 where 2 are known and 14 predicted.
        size: height and width.
        stride: frames from one frame of a clip to its next; 5 leaves 4 out, as RIVER's official code does. RIVER also
            trains in other colours here: :class:`~domains.video.data.jitter.ColourJitter`.
        options: see :class:`VideoFolder`.
    """

    def __init__(self, folder: str, *, frames: int = 16, size: int = 128, stride: int = 5, **options: Any) -> None:
        super().__init__(folder, frames=frames, size=size, stride=stride, **options)

    def videos(self) -> list[Video]:
        """See :class:`VideoFolder`."""
        found: list[Video] = []
        for key, path in find_files(self.root, SUFFIXES):
            name = _CLEVRER.match(path.stem)
            if name is not None:
                number = int(name[1])
                split: Split = "train" if number < 10_000 else "validation" if number < 15_000 else "test"
                found.append(Video(key, path, split=split, labels={"number": number}))
        if not found:
            raise UserError(f"{self.folder!r} is not CLEVRER: no file is named like video_00000.mp4")
        return found


class BAIR(VideoFolder):
    """BAIR's pushing robot (Ebert et al. 2017): ``train/*.tfrecords`` and ``test/*.tfrecords`` as the archive holds
    them (``softmotion30_44k``), with the actions (4 numbers: how far the arm goes, and the gripper); or unpacked to
    pictures, below ``train`` and ``test`` a folder of numbered pictures a video, without actions.

    Args:
        folder: that holds ``train`` and ``test``, at any depth.
        frames: of a clip; 16 where 1 is known and 15 predicted.
        validation: share of the videos of ``train``.
        view: of the records' two cameras: ``image_aux1``, which papers show, or ``image_main``.
        options: see :class:`VideoFolder`.
    """

    def __init__(
        self, folder: str, *, frames: int = 16, validation: float = 0.01,
        view: Literal["image_aux1", "image_main"] = "image_aux1", **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(folder, frames=frames, validation=validation, **options)
        self.view = view
        self._spans: dict[str, tuple[int, int]] = {}

    def videos(self) -> list[Video]:
        """See :class:`VideoFolder`; of records the lengths are read."""
        found: list[Video] = []
        if any(self.root.rglob("*.tfrecords")):
            for name, path in find_files(self.root, [".tfrecords"]):
                for number, span in enumerate(record_spans(path)):
                    found.append(Video(f"{name}/{number}", path))
                    self._spans[found[-1].key] = span
        else:
            found = [Video(key, path) for key, path in picture_folders(self.root)]
        found = [
            replace(video, split=None if "train" in parts else "test")
            for video, parts in ((video, video.key.split("/")) for video in found)
            if "train" in parts or "test" in parts
        ]
        if not found:
            raise UserError(
                f"{self.folder!r} is not BAIR: it holds neither .tfrecords files nor folders of pictures below 'train' "
                "and 'test'"
            )
        return found

    def settings(self) -> Mapping[str, Any]:
        """See :class:`VideoFolder`."""
        return {**super().settings(), "view": self.view}

    def open_video(self, video: Video, fit: Fit) -> Frames:
        """See :class:`VideoFolder`. The set says nothing of its rate; times are counted in frames."""
        if video.key in self._spans:
            frames, actions, digest = read_robot(video.path, *self._spans[video.key], view=self.view)
            each = (fitted(frame, fit) for frame in frames)
            return Frames(0.0, digest, len(frames), each, np.arange(len(frames), dtype=np.float64), actions)
        pictures: list[Path] = pictures_in(video.path)
        each = read_pictures(pictures, fit)
        return Frames(0.0, digest_of(pictures), len(pictures), each, np.arange(len(pictures), dtype=np.float64))
