"""Real video without a download: the pedestrians of vtest.avi, which Debian packages with OpenCV's documentation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from domains.video.data.arrays import read_arrays, stamp, write_frames
from domains.video.data.clips import FrameWriter
from domains.video.data.index import index_video
from domains.video.data.mapped import MappedSource
from domains.video.data.reader import Fit, chunks, decode
from flowkit.errors import UserError

#: Where Debian's package ``opencv-doc`` puts it.
DEBIAN = "/usr/share/doc/opencv-doc/examples/data/vtest.avi"
#: The whole video: frames, height, width.
_WHOLE = (795, 576, 768)
TERMS = "part of OpenCV's samples, not ours to pass on"
#: Side of the squares that clips show, in pixels of the file.
WINDOW = 128
#: Training and validation end before, the test split begins here; between parts lie 20 frames (2 s) that none has.
_LEARNT, _TESTED, _GAP = 600, 620, 20


class Pedestrians(MappedSource):
    """Set ``street64``: people who cross a yard, seen by a still camera. 795 frames, 10 a second.

    Clips show squares of 128 x 128 pixels scaled to ``size``; of ``candidates`` places drawn, the one is taken where
    most changes. Split in time: the test split are frames 620 to 794, validation the last ``validation`` frames before
    frame 600, training what lies before; 20 frames between them belong to none.

    Args:
        file: vtest.avi; or an ``.npz`` that :func:`pack_street` made, which needs no decoder. Empty: where Debian's
            package opencv-doc puts the former.
        validation: frames of the validation split; 0: training goes to frame 599.
        windows: clips from every start of a clip, each with a square of its own.
        candidates: squares drawn for each.
        flips: each training clip is there a second time, seen in a mirror.
        options: ``frames``, ``size`` and others, see :class:`~domains.video.data.mapped.MappedSource`.
    """

    source = "pedestrians (vtest.avi)"

    def __init__(
        self,
        *,
        file: str = "",
        validation: int = 80,
        windows: int = 8,
        candidates: int = 8,
        flips: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(windows=windows, candidates=candidates, flips=flips, terms=TERMS, **options)
        self.file, self.validation = file, validation

    @property
    def cut(self) -> bool:
        """Always."""
        return True

    @property
    def path(self) -> Path:
        """Of the file.

        Raises:
            UserError: it is not there.
        """
        path = Path(self.file).expanduser() if self.file else Path(DEBIAN)
        if not path.is_file():
            raise UserError(
                f"the pedestrians are vtest.avi of Debian's package opencv-doc, and {str(path)!r} is not there: "
                "'apt-get install opencv-doc' (or 'apt-get download opencv-doc' and 'dpkg -x' where documentation is "
                "left out), and name another place in data.init_args.file"
            )
        return path

    def check(self) -> None:
        """See :class:`~domains.video.data.mapped.MappedSource`."""
        super().check()
        if not 0 <= self.validation <= _LEARNT - 2 * _GAP:
            raise UserError(
                f"data.init_args.validation is {self.validation}: it is a number of frames, 0 to {_LEARNT - 2 * _GAP}"
            )

    def settings(self) -> Mapping[str, Any]:
        """See :class:`~domains.video.data.mapped.MappedSource`."""
        return {"file": stamp(self.path), "size": self.size}

    def fill(self, folder: Path) -> None:
        """Decode, or unpack."""
        path, fit = self.path, Fit(self.size, WINDOW)
        shape = (_WHOLE[0], *fit.shape(*_WHOLE[1:]))
        if path.suffix == ".npz":
            arrays = read_arrays(path)
            if arrays.frames.shape[:-1] != (1, *shape):
                raise UserError(f"{str(path)!r} was not packed for size {self.size}: pack it again for this size")
            write_frames(folder, arrays, {"source": self.source})
            return
        index = index_video(path)
        if (len(index), index.height, index.width) != _WHOLE:
            raise UserError(
                f"{str(path)!r} is not vtest.avi: it has {len(index)} frames of {index.height} x {index.width}, not "
                f"{_WHOLE[0]} of {_WHOLE[1]} x {_WHOLE[2]}; use VideoFolder for videos of your own"
            )
        with FrameWriter(folder, size=(shape[1], shape[2])) as writer:
            for part in chunks(decode(path, fit)):
                writer.add(part)
            rows = [{"frames": writer.frames, "fps": index.fps, "labels": {}}]
            writer.finish({"source": self.source, "digest": index.digest, "videos": rows})

    def pieces(self) -> Mapping[str, np.ndarray]:
        """By time."""
        held = self.validation
        learnt = _LEARNT - held - _GAP if held else _LEARNT
        return {
            "train": np.array([[0, 0, learnt]]),
            "validation": np.array([[0, _LEARNT - held, held]])[: int(held > 0)],
            "test": np.array([[0, _TESTED, _WHOLE[0] - _TESTED]]),
        }


def pack_street(target: Path, *, file: str = "", size: int = 64, tolerance: int = 3) -> None:
    """Write the whole video, scaled as clips of ``size`` show it, for :class:`Pedestrians` on a machine without a
    decoder.

    Args:
        target: an ``.npz``, about 20 MB at the default size and tolerance.
        file, size: as in :class:`Pedestrians`.
        tolerance: see :func:`~domains.video.data.arrays.pack_arrays`; 0 keeps every bit, at 40 MB.
    """
    from domains.video.data.arrays import pack_arrays

    path = Pedestrians(file=file, size=size).path
    frames = np.stack(list(decode(path, Fit(size, WINDOW))))
    pack_arrays(target, frames.transpose(0, 2, 3, 1), tolerance=tolerance, fps=index_video(path).fps)
