"""``--eta``: steps by the spread that an AdaFlow run has learnt."""

from __future__ import annotations

import argparse
import json
import math

import pytest

from flowkit.cli import options
from flowkit.config.overrides import apply_overrides
from flowkit.errors import UserError
from flowkit.solvers.controllers import Tolerance
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.variance_adaptive import VarianceAdaptive


def controller(before: object, *arguments: str) -> object:
    """What the sampler options make of a run's controller."""
    parser = argparse.ArgumentParser()
    options.add_sampler_arguments(parser)
    recipe = {"sampler": {"steps": 10, "controller": before}}
    changed = apply_overrides(recipe, options.sampler_overrides(parser.parse_args(arguments)), {"sampler": Sampler})
    return changed["sampler"]["controller"]


def test_it_keeps_the_runs_most_steps_unless_steps_says_another():
    own = {"class_path": VarianceAdaptive.__name__, "init_args": {"eta": 0.5, "max_steps": 7}}
    assert controller(own, "--eta", "0.25")["init_args"] == {"eta": 0.25, "max_steps": 7}
    assert controller(own, "--eta", "0.25", "--steps", "4")["init_args"] == {"eta": 0.25, "max_steps": 4}
    assert controller(None, "--eta", "1e-5", "--steps", "20") == {
        "class_path": VarianceAdaptive.__name__,
        "init_args": {"eta": 1e-5, "max_steps": 20},
    }
    tolerance = {"class_path": Tolerance.__name__, "init_args": {"rtol": 0.1}}
    assert controller(tolerance, "--eta", "inf")["init_args"] == {"eta": math.inf}
    assert controller(own, "--steps", "3") is None  # plain steps, as without a spread


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--eta", "-1"], "must be 0 or more"), (["--eta", "1", "--tolerance", "1e-3"], "exclude each other")],
)
def test_it_refuses_what_cannot_be(arguments, words):
    with pytest.raises(UserError, match=words):
        controller(None, *arguments)


def test_a_run_without_a_spread_says_what_to_do(flowkit, toy_run, tmp_path):
    code, _, err = flowkit("sample", toy_run, "-n", 2, "--device", "cpu", "--out", tmp_path / "x", "--eta", "0.1")
    assert (code, err.count("\n")) == (2, 1)
    assert "train with the objective AdaFlow" in err


def test_a_trained_spread_is_sampled_by(flowkit, tmp_path):
    run = tmp_path / "run"
    few = ["--trainer.steps", 2, "--trainer.evaluate_every", 0, "--trainer.sample_every", 0]
    recipe = "generic/branches-adaflow"
    code, _, err = flowkit("train", recipe, "--out", run, "--device", "cpu", "--trainer.progress", "false", *few)
    assert code == 0, err
    code, out, err = flowkit("evaluate", run, "--device", "cpu", "--eta", "inf", "--limit", 50, "--json")
    assert code == 0, err
    assert '"nfe": 1.0' in json.dumps(json.loads(out))
