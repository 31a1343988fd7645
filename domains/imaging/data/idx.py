"""IDX files, the format of MNIST and of the sets that took its place: four files, gzipped or not."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from domains.imaging.data.pictures import PictureSamples, PictureSource
from flowkit.data import Split
from flowkit.errors import UserError

#: What Fashion-MNIST calls its classes.
FASHION = (
    "T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
#: Folder that Debian's package dataset-fashion-mnist makes below each data folder of the system.
DEBIAN = Path("datasets") / "fashion-mnist"
_PREFIX = {"train": "train", "test": "t10k"}


def read_idx(path: Path) -> np.ndarray:
    """The array of bytes in an IDX file (two zero bytes, the type 8, the number of axes, their lengths as big-endian
    32-bit integers, the data).

    Raises:
        UserError: no such file, a damaged one, or one of another type than bytes.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != 8:
        raise UserError(f"{path} is no IDX file of bytes: it begins with {content[:4].hex(' ') or 'nothing'}")
    axes = content[3]
    shape = tuple(int(n) for n in np.frombuffer(content[4 : 4 + 4 * axes], dtype=">u4"))
    data = np.frombuffer(content, dtype=np.uint8, offset=min(4 + 4 * axes, len(content)))
    if len(shape) != axes or data.size != int(np.prod(shape, dtype=np.int64)):
        raise UserError(f"{path} is cut short: it says {shape} and holds {data.size:,} bytes")
    return data.reshape(shape)


class IdxPictures(PictureSource):
    """Grey pictures of four IDX files: ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same for
    ``t10k``, gzipped (.gz) or not.

    Args:
        folder: of the files; empty looks for Fashion-MNIST where Debian's package dataset-fashion-mnist puts it.
        validation: pictures taken from the end of the training files for validation.
        limit: use at most this many training pictures, 0 for all.
        class_names: of the labels; Fashion-MNIST's by default, and numbers where another count of classes is found.
        pad: black pixels on each side (2 makes 28 x 28 into 32 x 32).
    """

    def __init__(
        self,
        *,
        folder: str = "",
        validation: int = 5000,
        limit: int = 0,
        class_names: Sequence[str] = FASHION,
        pad: int = 0,
    ) -> None:
        self.folder, self.validation, self.limit, self.pad = folder, validation, limit, pad
        self.class_names = tuple(class_names)
        self.origin = folder or "Fashion-MNIST (Debian: dataset-fashion-mnist)"
        self.licence = "as the files' owner says" if folder else "MIT"
        self._read: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def prepare(self) -> None:
        """Look for the files; they are read when a split is asked for.

        Raises:
            UserError: a file is missing, with the way to get it.
        """
        for prefix in _PREFIX.values():
            for kind in ("images-idx3", "labels-idx1"):
                self._file(f"{prefix}-{kind}-ubyte")

    def read(self, name: Split) -> PictureSamples:
        """See :class:`PictureSource`."""
        pictures, labels = self._files("test" if name == "test" else "train")
        if name != "test":
            if not 0 <= self.validation < len(pictures):
                raise UserError(
                    f"data.init_args.validation is {self.validation}: the files hold {len(pictures)} training pictures"
                )
            cut = len(pictures) - self.validation
            rows = slice(cut, None) if name == "validation" else slice(0, min(cut, self.limit) if self.limit else cut)
            pictures, labels = pictures[rows], labels[rows]
        padded = np.pad(pictures, ((0, 0), (self.pad, self.pad), (self.pad, self.pad)))
        return PictureSamples(torch.from_numpy(padded[:, None].copy()), torch.from_numpy(labels.astype(np.int64)))

    def _files(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        if part not in self._read:
            files = [self._file(f"{_PREFIX[part]}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")]
            pictures, labels = (read_idx(file) for file in files)
            if pictures.ndim != 3 or labels.shape != pictures.shape[:1]:
                raise UserError(f"{files[0]} and {files[1]} do not belong together: {pictures.shape}, {labels.shape}")
            if int(labels.max(initial=0)) >= len(self.class_names):
                self.class_names = tuple(str(number) for number in range(int(labels.max()) + 1))
            self._read[part] = (pictures, labels)
        return self._read[part]

    def _folders(self) -> list[Path]:
        if self.folder:
            return [Path(self.folder).expanduser()]
        shares = os.environ.get("XDG_DATA_DIRS") or os.pathsep.join(("/usr/local/share", "/usr/share"))
        return [Path(share) / DEBIAN for share in shares.split(os.pathsep)]

    def _file(self, stem: str) -> Path:
        for folder in self._folders():
            for name in (f"{stem}.gz", stem):
                if (folder / name).is_file():
                    return folder / name
        where = " nor in ".join(str(folder) for folder in self._folders())
        raise UserError(
            f"{stem}.gz is not in {where}: install Debian's dataset-fashion-mnist, or say data.init_args.folder, or "
            "take data.class_path DrawnGlyphs, which needs no files"
        )
