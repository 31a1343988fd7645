"""The comparison of policies: pairs of the same environment, training seed and start, and nothing else."""

from __future__ import annotations

import pytest

from benchmarks.policies import SETTINGS, TRAININGS, make_sampler, recipe
from benchmarks.policy.comparison import Comparison, Method, difference
from domains.policy.records import Decision, EpisodeRecord
from flowkit.config.recipe import parse_recipe
from flowkit.errors import UserError
from flowkit.train.trainer import Trainer


def method(name: str, outcomes: dict[int, dict[int, bool]]) -> Method:
    """Training seed -> start -> success."""
    plan = (Decision(0, 2.0, 2.0, 0.1, 1),)
    seeds = {
        seed: [EpisodeRecord(start, won, float(won), float(won), 5, decisions=plan) for start, won in starts.items()]
        for seed, starts in outcomes.items()
    }
    return Method("FlowKit/Fork-v0", name, "Euler 2", seeds)


def test_only_the_same_starts_of_the_same_seed_are_compared():
    a = method("flow", {0: {1: True, 2: True, 9: False}, 1: {1: True}})
    b = method("bc", {0: {1: False, 2: True}, 1: {1: False}, 2: {1: True}})
    starts, by_seed, n = difference([(a, b)])
    assert n == 3
    assert starts.value == pytest.approx(2 / 3)
    assert by_seed.value == pytest.approx((0.5 + 1.0) / 2)  # seeds alike, however many starts each has


def test_methods_without_a_start_in_common_are_refused():
    with pytest.raises(UserError, match="no episodes in common"):
        difference([(method("flow", {0: {1: True}}), method("bc", {0: {2: True}}))])


def test_tables_count_calls_and_claims_need_both_sides():
    flow = method("flow", {0: {1: True, 2: False}})
    comparison = Comparison({("FlowKit/Fork-v0", "flow", "Euler 2"): flow})
    assert "| flow, Euler 2 | 0.500" in comparison.tables()
    assert "minus" not in comparison.claims()


@pytest.mark.parametrize("training", TRAININGS)
def test_every_training_has_a_recipe_and_samplers(training: str):
    parsed = parse_recipe(recipe(SETTINGS[0], training, 0, 5), training, trainer=Trainer)
    assert parsed.build("task").task.objective is not None
    for sampler in TRAININGS[training][1].values():
        assert make_sampler(*sampler).steps == sampler[1]
