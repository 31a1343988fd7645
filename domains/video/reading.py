"""The first frames of a video file, cut to a square and scaled: what a prediction goes on from."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from domains.video.data.index import opened
from domains.video.data.reader import Fit, new_reformatter
from flowkit.errors import UserError


def read_square(path: str | Path, *, size: int, start: int, count: int, stride: int = 1) -> tuple[np.ndarray, float]:
    """At most ``count`` frames from frame ``start`` on, each ``stride``-th, decoded from the beginning of the file.

    Frames are counted as decoded: header and time stamps may lie. What lies behind the last wanted frame is not read,
    and may be damaged.

    Returns:
        uint8 (n, 3, size, size) RGB with n <= count, and the frames a second of what is returned (10 where the file
        names none).

    Raises:
        UserError: PyAV is missing, the file is missing, damaged or no video.
    """
    path, fit = Path(path), Fit(size)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    found: list[np.ndarray] = []
    with opened(path, threads="AUTO") as (container, stream):
        reformatter = new_reformatter()
        rate = float(stream.average_rate or stream.guessed_rate or 10.0)
        for number, frame in enumerate(container.decode(stream)):
            if number < start or (number - start) % stride:
                continue
            if frame.is_corrupt:
                raise UserError(f"{str(path)!r} is damaged or cut short: frame {number} is not whole")
            found.append(fit(frame, reformatter))
            if len(found) == count:
                break
    frames = np.stack(found) if found else np.empty((0, 3, size, size), np.uint8)
    return frames, rate / stride


def read_actions(file: str | Path, numbers: int) -> np.ndarray:
    """Actions (n, ``numbers``) float32 of an ``.npy``, or of a text file with a row a line, numbers divided by commas.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    path = Path(file)
    try:
        with warnings.catch_warnings(action="ignore"):  # of an empty file: said below, in one line
            loaded = (
                np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(path, delimiter=",", ndmin=2)
            )
        given = np.asarray(loaded)
        if given.dtype.kind not in "biuf":
            raise UserError(f"{str(path)!r} holds {given.dtype}: rows of {numbers} finite numbers are expected")
        with np.errstate(over="ignore"):
            actions = given.astype(np.float32)
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise UserError(f"cannot read actions from {str(path)!r}: {error}") from error
    if actions.ndim != 2 or actions.shape[1] != numbers or not len(actions):
        raise UserError(
            f"{str(path)!r} holds an array of shape {actions.shape}: rows of {numbers} finite numbers are expected"
        )
    if not np.isfinite(actions).all():
        row = int(np.flatnonzero(~np.isfinite(actions).all(1))[0])
        raise UserError(f"row {row} of {str(path)!r} holds numbers that are not finite: {actions[row].tolist()}")
    return actions
