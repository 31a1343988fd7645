"""Policies at few network calls: the methods fit the recipes, and reports of several processes become one table."""

from __future__ import annotations

import json

import pytest

from benchmarks.policy.few_steps import PLAIN, merge, tables
from benchmarks.policy_few_steps import ENVIRONMENTS, FAMILIES, MEANINGS
from flowkit.config.recipe import load_recipe
from flowkit.train.comparison_entry import Entry
from flowkit.train.trainer import Trainer


@pytest.mark.parametrize(
    ("environment", "family", "name"),
    [
        ("fork", "velocity", "Consistency-FM, 2 segments"),
        ("fork", "velocity", "constant acceleration"),
        ("fork", "data", "OT coupling"),
        ("maze", "data", "Rectified Diffusion"),
        ("maze", "data", "AdaFlow"),
        ("fork", "data", "CaLMFlow, kl 0.01"),
    ],
)
def test_a_method_is_an_objective_of_the_recipe(environment, family, name):
    method = FAMILIES[family][name]
    entry = Entry.parse(method.entry + (f":{method.stage[0]}=20" if method.stage else ""))
    changes = [("task.objective.prediction", MEANINGS[family]), *entry.overrides(100)]
    task = load_recipe(ENVIRONMENTS[environment][1], changes, trainer=Trainer).build("task").task
    assert type(task.objective).__name__ == entry.name.split(":")[0]
    # Constant acceleration has no choice: it predicts the velocity, and what is missing of it; CaLMFlow the next point.
    if not name.startswith("CaLMFlow"):
        assert type(task.objective.prediction).__name__ == MEANINGS[family]


def report(seed, **successes):
    def made(outcomes):
        point = {"successes": outcomes, "modes": {"-1": 0.25, "1": 0.75}, "calls": 2.0}
        return {"steps": 10, "seconds": 5.0, "calls": {"2": point, "4": point}, "relative_straightness": 0.1}

    methods = {name.replace("_", " "): made(outcomes) for name, outcomes in successes.items()}
    return {"machine": "m", "runs": [
        {"environment": "Fork", "family": "data", "seed": seed, "starts": 4, "methods": methods}
    ]}  # fmt: skip


def test_the_first_of_two_trainings_stands_and_differences_are_of_the_same_starts(tmp_path):
    parts = [
        report(0, flow_matching=[1, 0, 0, 0]),
        report(0, flow_matching=[1, 1, 1, 1], reflow=[1, 1, 0, 0]),
        report(1, flow_matching=[0, 0, 0, 0], reflow=[0, 0, 1, 0]),
    ]
    files = [tmp_path / f"{number}.json" for number in range(len(parts))]
    for file, part in zip(files, parts, strict=True):
        file.write_text(json.dumps(part))
    whole = merge(files)
    assert [run["seed"] for run in whole["runs"]] == [0, 1]
    assert whole["runs"][0]["methods"][PLAIN]["calls"]["2"]["successes"] == [1, 0, 0, 0]
    lines = [line for line in tables(whole, FAMILIES).splitlines() if line.startswith("| ")]
    plain, reflow = lines[1].split(" | "), lines[2].split(" | ")
    assert plain[1:3] == ["-", "12.5"]  # no single call
    assert reflow[2].startswith("37.5 (+25.0: ")
    assert reflow[5] == "25 / 75"
