"""Intervals and summaries against other people's formulas, closed forms and sums by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.stats import binomtest

from domains.policy.metrics import (
    Spread,
    hierarchical_bootstrap,
    paired_bootstrap,
    summarise,
    wilson,
)
from domains.policy.records import Decision, EpisodeRecord


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 50), (50, 50), (25, 50), (3, 7), (197, 200)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_is_scipys(k, n, confidence):
    ours, theirs = wilson(k, n, confidence=confidence), binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert ours.value == k / n
    assert 0 <= ours.low <= ours.value <= ours.high <= 1


def test_fifty_episodes_do_not_show_a_five_point_gap():
    half = wilson(25, 50)
    assert (half.high - half.low) / 2 == pytest.approx(0.13, abs=0.005)
    with pytest.raises(ValueError, match="no rate"):
        wilson(0, 0)
    with pytest.raises(ValueError, match="no rate"):
        wilson(3, 2)


def test_one_group_gives_the_ordinary_bootstrap():
    outcomes = [1.0] * 30 + [0.0] * 70
    found = hierarchical_bootstrap([outcomes], draws=4000)
    assert found.value == pytest.approx(0.3)
    # The mean of a resample is binomial: deviation sqrt(p q / n).
    deviation = math.sqrt(0.3 * 0.7 / 100)
    assert found.low == pytest.approx(0.3 - 1.96 * deviation, abs=0.012)
    assert found.high == pytest.approx(0.3 + 1.96 * deviation, abs=0.012)


def test_disagreement_of_training_seeds_widens_the_interval():
    # Two seeds, one always succeeds, one never: the mean of two draws of them is 0, 1/2, 1 with odds 1, 2, 1.
    found = hierarchical_bootstrap([[1.0] * 100, [0.0] * 100])
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)
    pooled = hierarchical_bootstrap([[1.0] * 100 + [0.0] * 100])
    assert pooled.high - pooled.low < 0.2
    # Each seed weighs the same, however many episodes it has.
    assert hierarchical_bootstrap([[1.0] * 10, [0.0] * 90]).value == 0.5
    assert hierarchical_bootstrap([[1.0], [0.0]], seed=5) == hierarchical_bootstrap([[1.0], [0.0]], seed=5)
    for groups in ([], [[1.0], []]):
        with pytest.raises(ValueError, match="every training seed"):
            hierarchical_bootstrap(groups)


def test_pairs_show_what_two_separate_intervals_hide():
    rng = np.random.default_rng(0)
    hardness = rng.normal(size=200)
    a = {start: float(h + 0.1) for start, h in enumerate(hardness)}
    b = {start: float(h) for start, h in enumerate(hardness)}
    found = paired_bootstrap(a, b)
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert paired_bootstrap(b, a).value == pytest.approx(-0.1)
    noisy = {start: value + float(rng.normal()) for start, value in a.items()}
    wide = paired_bootstrap(noisy, b)
    assert wide.low < wide.value < wide.high
    assert wide.high - wide.low == pytest.approx(2 * 1.96 / math.sqrt(200), rel=0.2)


def test_only_common_starts_are_paired():
    found = paired_bootstrap({1: 1.0, 2: 1.0, 3: 0.0}, {2: 0.0, 3: 0.0, 4: 1.0})
    assert found.value == 0.5
    with pytest.raises(ValueError, match="no start in common"):
        paired_bootstrap({1: 1.0}, {2: 1.0})


def test_spread():
    found = Spread.of([4, 1, 1, 2])
    assert (found.mean, found.p50, found.max) == (2.0, 1.5, 4.0)
    assert found.p95 == pytest.approx(np.percentile([1, 1, 2, 4], 95))
    assert math.isnan(Spread.of([]).mean)


def records() -> list[EpisodeRecord]:
    def plan(step: int, nfe: float, seconds: float, batch: int) -> Decision:
        return Decision(step, nfe, 2 * nfe, seconds, batch, sigma=nfe / 10)

    return [
        EpisodeRecord(0, True, 3.0, 2.0, 10, 0.5, 0, (plan(0, 1, 0.001, 2), plan(8, 3, 0.003, 1))),
        EpisodeRecord(
            1, True, 1.0, 1.0, 20, 1.5, 1, (plan(0, 1, 0.001, 2), plan(8, 1, 0.001, 1), plan(16, 4, 0.009, 1))
        ),
        EpisodeRecord(2, True, 2.0, 2.0, 6, None, 1, (plan(0, 2, 0.002, 1),)),
        EpisodeRecord(3, False, -2.0, 0.0, 4, 1.0, 0, (), failed="RuntimeError: gone"),
    ]


def test_summary_by_hand():
    found = summarise(records(), modes=3, seconds_alone=[0.001, 0.002, 0.006])
    assert (found.episodes, found.success.value, found.failed) == (4, 0.75, 1)
    assert (found.reward, found.max_reward, found.length, found.jerk) == (1.0, 1.25, 10.0, 1.0)
    assert (found.nfe.mean, found.nfe.p50, found.nfe.max) == (2.0, 1.5, 4.0)
    assert found.network_calls.mean == 4.0
    assert found.nfe_histogram == {"2": 3, "4": 1, "6": 1, "8": 1}
    assert found.latency_ms.p50 == pytest.approx(1.5)
    assert found.latency_batch == pytest.approx(8 / 6)
    assert found.alone_ms is not None
    assert found.alone_ms.p50 == pytest.approx(2.0)
    assert found.sigma == pytest.approx((0.1, 0.15, 0.35))
    # Of the three successes one went way 0 and two way 1; the environment has a third one.
    assert found.modes == {"0": pytest.approx(1 / 3), "1": pytest.approx(2 / 3)}
    assert found.mode_entropy == pytest.approx(-(math.log(1 / 3) / 3 + 2 * math.log(2 / 3) / 3))
    assert found.mode_coverage == pytest.approx(2 / 3)


def test_a_summary_is_strict_json_even_of_episodes_without_plans():
    found = summarise([EpisodeRecord(0, False, 0.0, 0.0, 3)])
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert plain["nfe"]["mean"] is None
    assert plain["alone_ms"] is None
    assert plain["success"] == {"value": 0.0, "low": 0.0, "high": pytest.approx(0.7935, abs=1e-4)}


def test_a_rare_way_is_not_covered():
    many = [EpisodeRecord(i, True, 1.0, 1.0, 1, mode=int(i < 5)) for i in range(100)]
    assert summarise(many, modes=2).mode_coverage == 0.5
    assert math.isnan(summarise(many).mode_coverage)
