"""Arrays in the IDX format of MNIST and its kin, and where Debian keeps Fashion-MNIST."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from flowkit.errors import UserError

#: Where Debian's package ``dataset-fashion-mnist`` puts its files.
DEBIAN = "/usr/share/datasets/fashion-mnist"
#: Names of its classes, by label.
CLASSES = ("t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
#: Type codes of IDX; numbers are big-endian.
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path) -> np.ndarray:
    """The array of a file, packed (``.gz``) or not.

    Raises:
        UserError: it is missing, damaged, or no IDX file.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {str(path)!r}: {getattr(error, 'strerror', None) or error}") from error
    kind = _TYPES.get(content[2]) if len(content) > 4 and content[:2] == b"\0\0" else None
    if kind is None:
        raise UserError(f"{str(path)!r} is no IDX file")
    begin = 4 + 4 * content[3]
    if len(content) < begin:
        raise UserError(f"{str(path)!r} is cut short")
    shape = tuple(np.frombuffer(content[4:begin], dtype=">u4").tolist())
    dtype = np.dtype(kind)
    if len(content) - begin != math.prod(shape) * dtype.itemsize:
        raise UserError(f"{str(path)!r} is damaged: it holds {len(content) - begin} bytes for an array {shape}")
    return np.frombuffer(content, dtype=dtype, offset=begin).reshape(shape).astype(dtype.newbyteorder("="))


def read_fashion(folder: str = "", *, test: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 (n, 28, 28) and labels uint8 (n,) of Fashion-MNIST (Xiao, Rasul and Vollgraf 2017).

    Args:
        folder: of its four files; empty: where Debian's package puts them.
        test: the 10,000 for testing instead of the 60,000 to learn from.

    Raises:
        UserError: the files are not there, or damaged.
    """
    root = Path(folder).expanduser() if folder else Path(DEBIAN)
    found: list[np.ndarray] = []
    for what in ("images-idx3-ubyte", "labels-idx1-ubyte"):
        name = f"{'t10k' if test else 'train'}-{what}"
        path = next((path for path in (root / f"{name}.gz", root / name) if path.is_file()), None)
        if path is None:
            raise UserError(
                f"Fashion-MNIST is not in {str(root)!r} ({name}.gz is missing): 'apt-get install "
                "dataset-fashion-mnist' brings it, or name another folder"
            )
        found.append(read_idx(path))
    pictures, labels = found
    if pictures.shape[1:] != (28, 28) or labels.shape != pictures.shape[:1]:
        raise UserError(f"{str(root)!r} holds no Fashion-MNIST: arrays {pictures.shape} and {labels.shape}")
    return pictures, labels
