"""Clips kept in memory: read once, then handed over at the speed of the memory that holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from flowkit.data import DataSource, RawBatch, Samples, Split
from flowkit.errors import UserError

#: Clips read at once.
_BLOCK = 512
#: Share of a GPU's free memory that clips may take.
_SHARE = 0.7


class ResidentSamples(Samples):
    """Clips in one tensor.

    Args:
        source: where they come from; asked for their attributes.
        raw: raw batch of all of them, on the device that keeps them.
    """

    def __init__(self, source: Samples, raw: RawBatch) -> None:
        self.source, self.raw = source, raw

    def __len__(self) -> int:
        return len(self.raw["frames"])

    def batch(self, indices: Sequence[int]) -> RawBatch:
        """The source's raw batch, on the device that keeps the clips."""
        rows, device = torch.from_numpy(np.asarray(indices, dtype=np.int64)), self.raw["frames"].device
        if device.type == "cuda":
            # A copy from ordinary memory would wait for all that the GPU has still to do.
            rows = rows.pin_memory().to(device, non_blocking=True)
        return {name: values.index_select(0, rows) for name, values in self.raw.items()}

    def attributes(self, indices: Sequence[int]) -> Mapping[str, np.ndarray]:
        """The source's."""
        return self.source.attributes(indices)  # pyright: ignore[reportAttributeAccessIssue]


class ResidentClips(DataSource):
    """The training clips of another source, read once before training and kept in the memory of the device.

    For small networks on a fast GPU, which train faster than clips are drawn or decoded and moved there. Validation and
    test clips stay with the source.

    Args:
        source: of the clips.
        clips: keep the first so many of the training split; 0: all.
        device: ``auto`` keeps them on the GPU where there is one.
    """

    def __init__(self, source: DataSource, *, clips: int = 0, device: Literal["auto", "cpu"] = "auto") -> None:
        if clips < 0:
            raise UserError(f"data.init_args.clips is {clips}: it is at least 0, which keeps all")
        self.source, self.clips, self.device = source, clips, device
        self._kept: ResidentSamples | None = None

    def prepare(self) -> None:
        """Prepare the source."""
        self.source.prepare()

    def split(self, name: Split) -> Samples:
        """The kept clips to train on (read at the first call); the source's own splits else.

        Raises:
            UserError: the clips do not fit into the memory of the GPU.
        """
        if name != "train":
            return self.source.split(name)
        if self._kept is None:
            self._kept = self._read(self.source.split("train"))
        return self._kept

    def _read(self, samples: Samples) -> ResidentSamples:
        count = min(len(samples), self.clips or len(samples))
        if not count:
            return ResidentSamples(samples, samples.batch([]))
        first = samples.batch([0])
        device = torch.device("cpu")
        if self.device == "auto" and torch.cuda.is_available():
            device = torch.device("cuda", torch.cuda.current_device())
            wanted = count * sum(values.nbytes for values in first.values())
            free = torch.cuda.mem_get_info(device)[0]
            if wanted > _SHARE * free:
                raise UserError(
                    f"{count} clips are {wanted / 2**30:.1f} GiB, the GPU has {free / 2**30:.1f} GiB free: lower "
                    "data.init_args.clips, or keep them elsewhere with data.init_args.device cpu"
                )
        kept = {
            name: torch.empty((count, *values.shape[1:]), dtype=values.dtype, device=device)
            for name, values in first.items()
        }
        for start in range(0, count, _BLOCK):
            part = samples.batch(list(range(start, min(start + _BLOCK, count))))
            for name, values in part.items():
                kept[name][start : start + len(values)] = values.to(device)
        return ResidentSamples(samples, kept)

    def statistics(self) -> Mapping[str, Any]:
        """Those of the source, with the number of clips that are kept."""
        found = dict(self.source.statistics())
        clips = found.get("clips")
        if self.clips and isinstance(clips, Mapping) and "train" in clips:
            found["clips"] = {**clips, "train": min(int(clips["train"]), self.clips)}
        return found

    def provenance(self) -> Mapping[str, Any]:
        """That of the source."""
        return self.source.provenance()
