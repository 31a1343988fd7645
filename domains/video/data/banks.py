"""The pictures that sprites show: drawn shapes, or clothes of Fashion-MNIST."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from domains.video.data.idx import CLASSES, read_fashion
from domains.video.data.shapes import NAMES, PHASES, draw_shapes, shifted
from flowkit.errors import UserError


class Bank(ABC):
    """Numbered pictures of named classes.

    Args:
        side: height and width of a picture.
        tints: (n, channels) uint16, 0 to 255, the colours that pictures may have.
    """

    names: tuple[str, ...]

    def __init__(self, side: int, tints: np.ndarray) -> None:
        self.side, self.tints = side, tints

    @abstractmethod
    def numbers(self, split: str, held_out: int) -> np.ndarray:
        """(n,) int64, the pictures that a split may show, where ``held_out`` classes, the last ones, are seen in the
        test split only, and no others there; 0: all everywhere.
        """

    @abstractmethod
    def classes(self, pictures: np.ndarray) -> np.ndarray:
        """int64, numbers of the classes of pictures."""

    @abstractmethod
    def draw(self, picture: np.ndarray, tint: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Pictures (b, 1) in tints (b, 1), moved down and right by eighths of a pixel ``y`` and ``x`` (b, T): uint8
        (b, T, channels, side + 1, side + 1).
        """

    def _classes_of(self, split: str, held_out: int) -> range:
        seen = len(self.names) - held_out
        if not held_out:
            return range(len(self.names))
        return range(seen, len(self.names)) if split == "test" else range(seen)


class Shapes(Bank):
    """The twelve shapes of :mod:`domains.video.data.shapes`; picture and class are the same number."""

    names = NAMES

    def __init__(self, side: int, tints: np.ndarray) -> None:
        super().__init__(side, tints)
        y, x = (phase.ravel() for phase in np.indices((PHASES, PHASES)))
        drawn = draw_shapes(side)
        moved = np.stack([shifted(np.repeat(picture[None], len(y), 0), y, x) for picture in drawn])
        shape = (len(drawn), 1, PHASES, PHASES, 1, side + 1, side + 1)
        # All of them are few.
        self._all = (moved.reshape(shape) * tints.reshape(1, len(tints), 1, 1, -1, 1, 1) // 255).astype(np.uint8)

    def numbers(self, split: str, held_out: int) -> np.ndarray:
        """See :class:`Bank`."""
        return np.asarray(self._classes_of(split, held_out))

    def classes(self, pictures: np.ndarray) -> np.ndarray:
        """See :class:`Bank`."""
        return pictures

    def draw(self, picture: np.ndarray, tint: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """See :class:`Bank`."""
        return self._all[picture, tint, y, x]


class Fashion(Bank):
    """Clothes of Fashion-MNIST. Training and validation show the 60,000 pictures to learn from, the test split the
    10,000 others.

    Args:
        side: 28, or 14 for the means of 2 x 2 pixels.
        tints: see :class:`Bank`.
        folder: see :func:`domains.video.data.idx.read_fashion`.

    Raises:
        UserError: the files are not there, or there is no such size.
    """

    names = CLASSES

    def __init__(self, side: int, tints: np.ndarray, folder: str = "") -> None:
        super().__init__(side, tints)
        if side not in (28, 14):
            raise UserError(f"data.init_args.side is {side}: pictures of fashion-mnist have 28 pixels, or 14 halved")
        (learnt, labels), (tested, others) = read_fashion(folder), read_fashion(folder, test=True)
        pictures = np.concatenate([learnt, tested])
        if side == 14:
            pictures = (pictures.reshape(-1, 14, 2, 14, 2).sum(axis=(2, 4), dtype=np.uint16) // 4).astype(np.uint8)
        self._pictures, self._labels = pictures, np.concatenate([labels, others]).astype(np.int64)
        self._learnt = len(learnt)

    def numbers(self, split: str, held_out: int) -> np.ndarray:
        """See :class:`Bank`."""
        allowed = np.flatnonzero(np.isin(self._labels, self._classes_of(split, held_out)))
        return allowed[(allowed >= self._learnt) == (split == "test")]

    def classes(self, pictures: np.ndarray) -> np.ndarray:
        """See :class:`Bank`."""
        return self._labels[pictures]

    def draw(self, picture: np.ndarray, tint: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """See :class:`Bank`."""
        clips, frames = y.shape
        shown = np.repeat(self._pictures[picture[:, 0]], frames, axis=0)
        moved = shifted(shown, y.ravel(), x.ravel()).reshape(clips, frames, 1, self.side + 1, self.side + 1)
        if (self.tints == 255).all():
            return moved
        return (moved * self.tints[tint][..., None, None] // 255).astype(np.uint8)
