"""Whether clips fit a model that is to go on with them: other data than the training's may be given to a trained
model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from flowkit.errors import UserError

if TYPE_CHECKING:
    from domains.video.river import RiverTask


def fitting(task: RiverTask, raw: Mapping[str, Any], *, least: int) -> Tensor:
    """The frames uint8 (b, T, c, h, w) of a raw batch, T at least ``least``.

    Raises:
        UserError: the clips are shorter, the frames have another shape than the model's, or its actions are missing.
    """
    frames = raw["frames"]
    length, *shape = frames.shape[1:]
    if shape != [task.channels, task.size, task.size]:
        raise UserError(
            f"the model's frames have {task.channels} channels of {task.size} x {task.size} pixels, the data's "
            f"{shape[0]} of {shape[1]} x {shape[2]}: set data.init_args.size to {task.size}"
        )
    if length < least:
        raise UserError(f"clips of {length} frames are too short: set data.init_args.frames to {least} or more")
    if task.actions:
        there = raw["actions"].shape[-1] if "actions" in raw else 0
        if there != task.actions:
            raise UserError(f"the model reads {task.actions} numbers of action a frame, the data has {there}")
    return frames
