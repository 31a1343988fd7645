"""The benchmark of pictures: its table of methods fits the objectives, and its reports merge."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.pictures.costs import Stepper, built
from benchmarks.pictures.methods import METHODS, OTHERS, Method
from benchmarks.pictures.report import merge, table

SMALL = [("task.network.widths", "[8,8]"), ("task.network.code", "16"), ("task.network.heads", "2")]
RECIPE = "imaging/fashion-flow-matching"


ALL = {**METHODS, **OTHERS}


@pytest.mark.parametrize("name", [name for name in ALL if name != "calmflow"])  # no U-Net
def test_each_method_makes_a_step_that_changes_its_networks(name):
    generator = torch.Generator().manual_seed(0)
    raw = {"picture": torch.randint(0, 256, (4, 1, 28, 28), generator=generator).byte(), "label": torch.arange(4)}
    step = Stepper(RECIPE, ALL[name], raw, [*SMALL, ("task.size", "28")])
    for parameter in step.parameters:  # layers that begin at 0 keep gradients from those before them
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    before = [p.detach().clone() for p in step.parameters]
    for _ in range(2):
        step()
    moved = sum(not torch.equal(old, new) for old, new in zip(before, step.parameters, strict=True))
    assert moved > 0.5 * len(before)


def test_stages_are_shares_of_the_training():
    objective = built(RECIPE, METHODS["consistency-fm"], SMALL, steps=400).task.objective
    assert objective.anchored_steps == 200


def test_steps_are_counted_in_network_calls():
    assert [METHODS["caf"].steps(n) for n in (1, 2, 4)] == [None, 1, 3]
    assert [METHODS["consistency-fm"].steps(n) for n in (1, 2, 4)] == [None, 2, 4]
    assert Method().steps(3) == 3


def test_reports_of_two_processes_become_one_table(tmp_path):
    def report(name, value):
        run = {"frechet": {"1": value}, "steps": 10, "seconds": 5.0}
        return {"machine": "m", "judge": {"floor": 1.0}, "results": {"costs": {}, name: {"0": run}}}

    for name, value in (("a", 3.0), ("b", 4.0)):
        (tmp_path / f"{name}.json").write_text(json.dumps(report(name, value)))
    whole = merge([tmp_path / "a.json", tmp_path / "b.json"])
    text = table(whole)
    assert "| a | 3.00 |" in text
    assert "| b | 4.00 |" in text
