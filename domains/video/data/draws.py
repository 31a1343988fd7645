"""Random draws of the data: each a function of the seed and of the number of a clip."""

from __future__ import annotations

import numpy as np

from flowkit.random import mix_seed

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def uniforms(seed: int, clips: np.ndarray, count: int) -> np.ndarray:
    """(b, count) numbers on [0, 1), a hash of (seed, clip number, column): SplitMix64's finaliser, applied twice."""

    def mixed(z: np.ndarray) -> np.ndarray:
        z = (z ^ (z >> np.uint64(30))) * _MIX[0]
        z = (z ^ (z >> np.uint64(27))) * _MIX[1]
        return z ^ (z >> np.uint64(31))

    rows = mixed(np.asarray(clips).astype(np.uint64) * _GOLDEN + np.uint64(mix_seed(seed)))
    bits = mixed(rows[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
