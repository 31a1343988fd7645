from __future__ import annotations

import pytest

from flowkit.config.overrides import split_overrides
from flowkit.config.recipe import parse_recipe
from flowkit.errors import UserError
from flowkit.train.trainer import Trainer

RAW = {
    "data": "ToyData",
    "task": {"class_path": "ToyTask", "init_args": {"network": "ToyNet", "objective": {"class_path": "FlowMatching"}}},
    "trainer": {"steps": 3},
    "sampler": {"solver": "Midpoint", "controller": {"class_path": "Tolerance", "init_args": {"rtol": 1e-2}}},
}


def change(*overrides):
    return parse_recipe(RAW, "r.yaml", overrides, trainer=Trainer).resolved


def test_a_value_of_the_trainer():
    assert change(("trainer.steps", "10"))["trainer"]["steps"] == 10
    assert RAW["trainer"]["steps"] == 3  # the recipe itself is left alone


def test_init_args_may_be_left_out_or_given():
    short = change(("task.objective.path.floor", "1e-4"))
    long = change(("task.init_args.objective.init_args.path.init_args.floor", "1e-4"))
    assert short == long
    assert short["task"]["init_args"]["objective"]["init_args"]["path"]["init_args"]["floor"] == 1e-4


def test_arguments_of_a_class_that_the_recipe_only_names():
    assert change(("task.network.width", "3"))["task"]["init_args"]["network"]["init_args"]["width"] == 3
    assert change(("data.size", "7"))["data"]["init_args"]["size"] == 7


def test_a_new_class_keeps_the_arguments_that_it_also_takes():
    solver = change(("sampler.solver", "Heun"))["sampler"]["solver"]
    assert solver["class_path"].endswith("Heun")
    changed = change(("sampler.controller", "Tolerance"))["sampler"]["controller"]
    assert changed["init_args"]["rtol"] == 1e-2
    fixed = change(("sampler.controller", "FixedSteps"), ("sampler.controller.steps", "4"))["sampler"]["controller"]
    assert fixed["init_args"]["steps"] == 4
    assert "rtol" not in fixed["init_args"]


def test_null_takes_an_optional_object_away():
    assert change(("sampler.controller", "null"))["sampler"]["controller"] is None


def test_a_whole_object_as_yaml():
    changed = change(("sampler.controller", "{class_path: Tolerance, init_args: {rtol: 1e-3}}"))
    assert changed["sampler"]["controller"]["init_args"]["rtol"] == 1e-3


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("trianer.steps", "1", ["--trianer.steps", "did you mean 'trainer'?"]),
        ("trainer.stepz", "1", ["Trainer takes no 'stepz'", "did you mean 'steps'?"]),
        ("task.objective.path.flor", "1", ["--task.objective.path.flor", "LinearPath", "'floor'"]),
        ("sampler.guidance.scale", "2", ["no Guidance there yet", "first set --sampler.guidance NAME"]),
        ("trainer.steps", "many", ["trainer.steps", "int", "'many'"]),
        ("trainer.steps", "{a", ["--trainer.steps", "broken YAML"]),
        ("task.objective", "FlowMaching", ["did you mean 'FlowMatching'?"]),
    ],
)
def test_mistakes(path, value, words):
    with pytest.raises(UserError) as caught:
        change((path, value))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_overrides_are_taken_out_of_a_command_line():
    rest, overrides = split_overrides(["r.yaml", "--trainer.lr", "-1", "--out", "a.b", "--task.x=3=4", "--dry-run"])
    assert rest == ["r.yaml", "--out", "a.b", "--dry-run"]
    assert overrides == [("trainer.lr", "-1"), ("task.x", "3=4")]
    assert split_overrides(["a", "--", "--b.c", "1"]) == (["a", "--", "--b.c", "1"], [])
    for line in (["--trainer.steps"], ["--trainer.steps", "--json"]):
        with pytest.raises(UserError, match=r"--trainer.steps needs a value"):
            split_overrides(line)
