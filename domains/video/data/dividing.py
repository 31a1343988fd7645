"""Dividing videos into splits without a common frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from domains.video.data.clips import SPLITS
from flowkit.errors import UserError
from flowkit.random import mix_seed


def divided(
    rows: Sequence[Mapping[str, Any]], *, validation: float, test: float, seed: int
) -> Mapping[str, np.ndarray]:
    """The pieces of videos of every split.

    Videos of a fixed split are in it; a split that has such videos gets no others. Of the rest, whole groups are drawn
    at random by the shares, at least one where a share is positive. Where there are too few groups for that, each video
    is cut in time: first training, then validation, then test.

    Args:
        rows: of the videos: ``frames`` (their number), ``group`` and ``split`` (None where it is free).
        validation, test: shares.
        seed: of the drawing.

    Returns:
        For each split int64 (n, 3): number of the video, its piece's first frame in all frames, and its length.

    Raises:
        UserError: shares that leave nothing for training.
    """
    if validation < 0 or test < 0 or validation + test >= 1:
        raise UserError(
            f"data.init_args.validation is {validation} and test is {test}: shares are not negative and sum to less "
            "than 1"
        )
    fixed = {row["split"] for row in rows} - {None}
    shares = {"validation": validation, "test": test}
    shares = {name: 0.0 if name in fixed else share for name, share in shares.items()}
    free = [row["group"] for row in rows if row["split"] is None]
    groups = sorted(set(free))
    order = np.random.Generator(np.random.PCG64(mix_seed(seed))).permutation(len(groups))
    counts = {name: max(1, round(share * len(groups))) if share else 0 for name, share in shares.items()}
    by_time = sum(counts.values()) >= len(groups)
    drawn: dict[str, str] = {}
    for name, count in counts.items():
        for number in order[len(drawn) : len(drawn) + count]:
            drawn[groups[number]] = name
    pieces: dict[str, list[tuple[int, int, int]]] = {name: [] for name in SPLITS}
    first = 0
    for number, row in enumerate(rows):
        length = int(row["frames"])
        if row["split"] is not None or not by_time:
            pieces[row["split"] or drawn.get(row["group"], "train")].append((number, first, length))
        else:
            held = {name: round(share * length) for name, share in shares.items()}
            begin = first
            for name, size in (("train", length - sum(held.values())), *held.items()):
                if size:
                    pieces[name].append((number, begin, size))
                begin += size
        first += length
    return {name: np.asarray(found, dtype=np.int64).reshape(-1, 3) for name, found in pieces.items()}
