"""Where in large frames the squares lie that clips show."""

from __future__ import annotations

import numpy as np

from domains.video.data.draws import uniforms


def draw_corners(
    frames: np.ndarray, starts: np.ndarray, *, span: int, size: int, windows: int, candidates: int, seed: int
) -> np.ndarray:
    """Upper left corners of squares, a function of the seed and of the clips' first frames.

    Args:
        frames: uint8 (N, 3, H, W), all frames.
        starts: (n,) first frames of the clips.
        span: frames that a clip reaches over.
        size: height and width of a square.
        windows: squares of each clip.
        candidates: of so many squares drawn, the one is taken in which most changes from the first frame of the clip to
            its middle and from there to its last.
        seed: of the draws.

    Returns:
        (n, windows, 2) int64, y then x.
    """
    room = np.subtract(frames.shape[2:], size) + 1
    draws = uniforms(seed, starts, windows * candidates * 2).reshape(len(starts), windows, candidates, 2)
    corners = (draws * room).astype(np.int64)
    if candidates == 1:
        return corners[:, :, 0]
    best = np.empty((len(starts), windows, 2), dtype=np.int64)
    for row, start in enumerate(starts.tolist()):
        shown = frames[[start, start + span // 2, start + span - 1]].astype(np.int64).sum(axis=1)
        # Sums over any rectangle come from four entries of the sums over those that begin at the origin.
        changed = np.abs(np.diff(shown, axis=0)).sum(axis=0).cumsum(0).cumsum(1)
        summed: np.ndarray = np.pad(changed, ((1, 0), (1, 0)))
        y, x = corners[row, ..., 0], corners[row, ..., 1]
        change = summed[y + size, x + size] - summed[y, x + size] - summed[y + size, x] + summed[y, x]
        best[row] = corners[row, np.arange(windows), change.argmax(axis=1)]
    return best
