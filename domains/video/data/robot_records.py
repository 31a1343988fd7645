"""One video of BAIR's pushing robot, from the record of TensorFlow that holds it."""

from __future__ import annotations

import hashlib
from itertools import count
from pathlib import Path

import numpy as np

from domains.video.data.tfrecords import read_example
from flowkit.errors import UserError

#: Height and width of its pictures, which are kept as plain bytes.
_SIDE = 64


def read_robot(path: Path, offset: int, length: int, *, view: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Frames uint8 (n, 64, 64, 3), actions float32 (n, 4), and a hash of them; in the record frame i is
    ``i/<view>/encoded`` and what is done next ``i/action``.

    Args:
        path: of the file.
        offset, length: of the record's content.
        view: the camera.

    Raises:
        UserError: the record holds something else.
    """
    found = read_example(path, offset, length)
    frames: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    for number in count():
        picture, action = found.get(f"{number}/{view}/encoded"), found.get(f"{number}/action")
        if picture is None and action is None:
            break
        if not isinstance(picture, bytes) or len(picture) != 3 * _SIDE**2 or not isinstance(action, np.ndarray):
            raise UserError(
                f"{str(path)!r}: frame {number} of the record at byte {offset} is no picture of {_SIDE} x {_SIDE} with "
                "an action: this is not BAIR's set, or it is damaged"
            )
        frames.append(np.frombuffer(picture, np.uint8).reshape(_SIDE, _SIDE, 3))
        actions.append(action)
    if not frames or len({len(action) for action in actions}) != 1:
        raise UserError(f"{str(path)!r}: the record at byte {offset} holds no frames of {view}: this is not BAIR's set")
    state = hashlib.blake2b(digest_size=16)
    for part in (*frames, *actions):
        state.update(part.tobytes())
    return np.stack(frames), np.stack(actions).astype(np.float32), state.hexdigest()
