"""Videos that are kept as a folder of numbered pictures."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from domains.video.data.index import EXTRA
from domains.video.data.reader import Fit
from flowkit.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")


def picture_folders(root: Path) -> list[tuple[str, Path]]:
    """Names relative to ``root`` and paths of all folders that hold pictures, in the order of the numbers in them.

    Raises:
        UserError: there is no such folder, or none with pictures.
    """
    if not root.is_dir():
        raise UserError(f"data.init_args.folder: there is no folder {str(root)!r}")
    found = {path.parent for path in root.rglob("*") if path.suffix.lower() in SUFFIXES}
    if not found:
        raise UserError(f"{str(root)!r} holds no folder with pictures ({', '.join(SUFFIXES)})")
    named = [(path.relative_to(root).as_posix(), path) for path in found]
    return sorted(named, key=lambda pair: _natural(pair[0]))


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of one video in the order of their numbers: 2.png comes before 10.png."""
    return sorted(
        (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES), key=lambda path: _natural(path.name)
    )


def digest_of(paths: list[Path]) -> str:
    """Hash of names and contents."""
    state = hashlib.blake2b(digest_size=16)
    for path in paths:
        state.update(path.name.encode() + path.read_bytes())
    return state.hexdigest()


def read_pictures(paths: list[Path], fit: Fit) -> Iterator[np.ndarray]:
    """The pictures as uint8 (3, H, W), RGB.

    Raises:
        UserError: one cannot be read, or has another size than the first where ``fit`` keeps sizes.
    """
    shape = None
    for path in paths:
        try:
            from PIL import Image

            with Image.open(path) as image:
                array = np.asarray(image.convert("RGB"))
        except ImportError as error:
            raise UserError(f"reading pictures needs a package ({error}): pip install pillow") from error
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read the picture {str(path)!r}: {error}") from error
        frame = fitted(array, fit)
        if shape is not None and frame.shape != shape:
            raise UserError(f"picture {str(path)!r} has another size than those before it")
        shape = frame.shape
        yield frame


def fitted(picture: np.ndarray, fit: Fit) -> np.ndarray:
    """A picture uint8 (h, w, 3), RGB, as uint8 (3, H, W).

    Raises:
        UserError: PyAV is missing.
    """
    try:
        import av
    except ImportError as error:
        raise UserError(f"reading pictures needs a package ({error}): {EXTRA}") from error
    return fit(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24"))


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
