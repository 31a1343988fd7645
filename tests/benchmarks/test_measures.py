"""Arithmetic of the rows: durations, deviations, levels, the table."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.speech.measures import Clip, Scores, deviation_ratio, duration_ratio, level, table


def clip(
    mel: np.ndarray | None, true: np.ndarray | None, seconds: float | None = 1.0, true_seconds: float = 2.0
) -> Clip:
    return Clip("x", ["a"], np.zeros(10, np.float32), mel, true, seconds, true_seconds)


def test_deviation_ratio_is_the_factor_by_which_the_mels_swing_more_whatever_their_level_and_length():
    generator = np.random.default_rng(0)
    true = generator.normal(size=(4, 50)) * np.array([[1.0], [2.0], [3.0], [4.0]])
    stretched = np.repeat(1.2 * true + 7.0, 2, axis=1)
    assert deviation_ratio([clip(stretched, true)]) == pytest.approx(1.2)
    assert deviation_ratio([clip(stretched, true), clip(0.8 * true, true)]) == pytest.approx(1.0)
    assert deviation_ratio([clip(stretched, true), clip(None, true)]) is None


def test_duration_ratio_weighs_clips_by_their_length():
    clips = [clip(None, None, 1.0, 1.0), clip(None, None, 6.0, 3.0)]
    assert duration_ratio(clips) == pytest.approx(7.0 / 4.0)
    assert duration_ratio([clip(None, None, None)]) is None


def test_level_sets_the_peak_and_leaves_silence():
    assert np.abs(level(np.array([0.1, -0.5]))).max() == pytest.approx(0.95)
    assert not level(np.zeros(3)).any()


def test_the_table_has_a_row_for_each_score_and_leaves_out_what_does_not_apply():
    rows = [
        Scores("recordings", 22, 22, 0.164, 0.079, 3.17, None, None),
        Scores("Euler", 22, 21, 0.4, 0.2, 2.3, 1.0, 1.16),
    ]
    lines = table(rows).splitlines()
    assert lines[2] == "| recordings | 22/22 | 0.164 | 0.079 | 3.17 |  |  |"
    assert lines[3] == "| Euler | 21/22 | 0.400 | 0.200 | 2.30 | 1.00 | 1.16 |"
    assert len({line.count("|") for line in lines}) == 1
