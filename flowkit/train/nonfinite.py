"""What happens when a loss is not finite: the batch is written beside the run, and the run stops."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from flowkit import atomic
from flowkit.errors import UserError
from flowkit.train.loader import Share


class NonFiniteLoss(UserError):
    """A loss or gradient became infinite or not a number."""


def write_batch(folder: Path, step: int, rank: int, share: Share) -> Path:
    """Write the batch of ``step`` as safetensors: its tensors; in the metadata its sample numbers, texts and names."""
    tensors: dict[str, Tensor] = {}
    lists: dict[str, object] = {}
    for number, part in enumerate(share.parts):
        prefix = f"{number}." if len(share.parts) > 1 else ""
        lists[f"{prefix}indices"] = list(part.indices)
        for name, value in part.raw.items():
            if isinstance(value, Tensor):
                tensors[prefix + name] = value
            else:
                lists[prefix + name] = value
    path = folder / f"nonfinite-step{step}-rank{rank}.safetensors"
    atomic.write_tensors(path, tensors, {name: json.dumps(value, default=str) for name, value in lists.items()})
    return path


def stop(step: int, values: Mapping[str, float], written: Path | None, last_checkpoint: int | None) -> NonFiniteLoss:
    """The error to raise for ``values`` that were not finite in ``step`` (from 0)."""
    listing = ", ".join(f"{name} = {value}" for name, value in values.items())
    where = f"its batch is in {written}" if written is not None else "its batch was not written"
    kept = "no checkpoint exists" if last_checkpoint is None else f"the last checkpoint is of step {last_checkpoint}"
    return NonFiniteLoss(
        f"step {step + 1}: {listing}; {where}; {kept}. Lower trainer.lr, set trainer.clip, or trainer.precision fp32"
    )
