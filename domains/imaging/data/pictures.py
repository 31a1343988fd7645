"""Pictures in memory, and what every source of them offers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from flowkit.data import DataSource, RawBatch, Samples, Split
from flowkit.errors import UserError, nearest

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class PictureSamples(Samples):
    """Pictures of one split.

    Args:
        pictures: bytes, 0 to 255.
        labels: the class of each, from 0.
    """

    def __init__(self, pictures: UInt8[Tensor, "n c h w"], labels: Int[Tensor, " n"]) -> None:
        self.pictures, self.labels = pictures, labels

    def __len__(self) -> int:
        return self.pictures.shape[0]

    def batch(self, indices: Sequence[int]) -> RawBatch:
        """``picture`` (b, c, h, w) uint8 and ``label`` (b,) int64."""
        rows = torch.as_tensor(indices, dtype=torch.long)
        return {"picture": self.pictures[rows], "label": self.labels[rows]}


class PictureSource(DataSource):
    """A source whose pictures fit in memory; a subclass writes :meth:`read` and what describes it."""

    #: Names of the classes, in the order of their numbers.
    class_names: tuple[str, ...] = ()
    #: Where the pictures come from, and under which licence.
    origin: str = ""
    licence: str = ""

    @abstractmethod
    def read(self, name: Split) -> PictureSamples:
        """The pictures of a split, the same at every call."""

    def split(self, name: Split) -> PictureSamples:
        """One split.

        Raises:
            UserError: there is no such split, or its files cannot be read.
        """
        if name not in SPLITS:
            raise UserError(f"no split {name!r}: {nearest(name, SPLITS)}")
        return self.read(name)

    def statistics(self) -> Mapping[str, Any]:
        """``pictures`` of each split, ``size``, ``channels``, ``classes``, ``class_names``, mean and deviation of the
        training bytes, ``source`` and ``licence``."""
        train = self.split("train")
        channels, height, width = train.pictures.shape[1:]
        values = train.pictures[:10_000].double()
        return {
            "pictures": {name: len(train if name == "train" else self.split(name)) for name in SPLITS},
            "size": [height, width],
            "channels": channels,
            "classes": len(self.class_names),
            "class_names": list(self.class_names),
            "mean": float(values.mean()),
            "deviation": float(values.std()),
            "source": self.origin,
            "licence": self.licence,
        }
