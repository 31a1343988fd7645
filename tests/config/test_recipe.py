from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from flowkit.config.recipe import find_recipe, load_recipe, parse_recipe
from flowkit.config.yamlfile import parse_yaml
from flowkit.errors import UserError
from flowkit.solvers.midpoint import Midpoint
from flowkit.train.trainer import Trainer

TEXT = """
description: two points
data: {class_path: ToyData, init_args: {size: 10}}
task:
  class_path: ToyTask
  init_args:
    network: {class_path: ToyNet, init_args: {width: 4}}
    objective: {class_path: FlowMatching, init_args: {path: {class_path: LinearPath, init_args: {floor: 1e-4}}}}
trainer: {steps: 3, lr: 1e-3}
sampler: {solver: Midpoint, steps: 4}
seed: 5
"""


def parse(text=TEXT, *overrides, **options):
    return parse_recipe(parse_yaml(text, "r.yaml"), "r.yaml", overrides, **{"trainer": Trainer, **options})


def mistake(text=TEXT, *overrides, **options) -> str:
    with pytest.raises(UserError) as caught:
        parse(text, *overrides, **options).build()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


def test_a_recipe_becomes_its_objects():
    built = parse().build()
    assert built.data.size == 10
    assert built.task.networks.main.body[0].out_features == 4
    assert built.task.objective.path.floor == 1e-4
    assert (built.trainer.steps, built.trainer.lr, built.seed) == (3, 1e-3, 5)
    assert isinstance(built.sampler.solver, Midpoint)
    assert built.sampler.steps == 4


def test_the_resolved_recipe_parses_back_to_itself():
    recipe = parse()
    again = parse(recipe.dump())
    assert again.resolved == recipe.resolved
    assert again.dump() == recipe.dump()
    assert recipe.resolved["sampler"]["grid"]["class_path"].endswith("UniformGrid")  # defaults are written out


def test_values_take_the_type_of_their_argument():
    recipe = parse(TEXT.replace("lr: 1e-3", "lr: 1").replace("width: 4", "width: 1, scales: [1, 2]"))
    found = [recipe.resolved["trainer"]["lr"], *recipe.resolved["task"]["init_args"]["network"]["init_args"]["scales"]]
    assert found == [1, 1, 2]
    assert all(type(value) is float for value in found)
    assert parse(TEXT.replace("size: 10", "file: a/b")).build("data").data.file == Path("a/b")
    assert "ToyNet expects int" in mistake(TEXT.replace("width: 4", "width: true"))  # though 1 was right above


def test_an_explicit_null_survives_the_round_trip():
    text = TEXT.replace("size: 10", "size: 10, file: /a/b")
    recipe = parse(text, ("data.file", "null"))
    assert parse(recipe.dump()).build("data").data.file is None


def test_weights_are_drawn_from_the_seed_and_the_callers_generator_is_left_alone():
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    one, two = parse().build("task").task, parse().build("task").task
    other = parse(TEXT, ("seed", "6")).build("task").task
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [task.networks.main.body[0].weight for task in (one, two, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_keys_that_are_not_read_are_carried_along():
    text = TEXT.replace("ToyData", "GoneData").replace("steps: 3", "old_option: 3")
    recipe = parse(text, trainer=None, keys=("task", "sampler"))
    assert recipe.resolved["data"]["class_path"] == "GoneData"
    assert recipe.resolved["trainer"] == {"old_option": 3, "lr": 1e-3}
    assert recipe.build().data is None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("objective:", "objectiv:", ["task", "ToyTask takes no 'objectiv'", "did you mean 'objective'?"]),
        ("width: 4", "widht: 4", ["task.network", "ToyNet takes no 'widht'", "did you mean 'width'?"]),
        ("steps: 3", "stpes: 3", ["trainer", "'stpes'", "did you mean 'steps'?"]),
        ("solver: Midpoint", "slver: Midpoint", ["sampler", "'slver'", "did you mean 'solver'?"]),
        ("trainer:", "trianer:", ["'trianer'", "did you mean 'trainer'?"]),
        ("{floor: 1e-4}", "{flor: 1e-4}", ["task.objective.path", "LinearPath takes no 'flor'", "'floor'"]),
        ("FlowMatching", "FlowMaching", ["task.objective", "no Objective", "did you mean 'FlowMatching'?"]),
        ("ToyData", "ToyDate", ["data", "no DataSource", "did you mean 'ToyData'?"]),
        ("solver: Midpoint", "solver: midpiont", ["sampler.solver", "no Solver", "did you mean 'Midpoint'?", "Heun"]),
        ("ToyNet", "ToyData", ["task.network", "no Network is named 'ToyData'"]),
        ("ToyTask", "flowkit.tasks.Task", ["task", "abstract", "ToyTask"]),
        ("ToyTask", "flowkit.tasks.Tusk", ["task", "'flowkit.tasks.Tusk' is no Task"]),
        ("width: 4", "width: four", ["task.network.width", "ToyNet expects int", "'four'"]),
        ("size: 10", "size: 1.5", ["data.size", "int", "1.5"]),
        ("size: 10", "law: evn", ["data.law", "one of even, odd", "'evn'"]),
        ("width: 4", "scales: [1, x]", ["task.network.scales", "list[float]"]),
        ("lr: 1e-3", "lr: fast", ["trainer.lr", "float", "'fast'"]),
        ("lr: 1e-3", "schedule: cosin", ["trainer.schedule", "cosine", "'cosin'"]),
        ("lr: 1e-3", "steps: [1]", ["given twice", "line"]),
        ("steps: 4", "steps: ten", ["sampler.steps", "int", "'ten'"]),
        ("seed: 5", "seed: five", ["seed", "int", "'five'"]),
        ("sampler: {solver: Midpoint, steps: 4}", "sampler: 3", ["sampler", "arguments of Sampler", "3"]),
        ("{class_path: LinearPath, init_args: {floor: 1e-4}}", "[1, 2]", ["task.objective.path", "Path", "[1, 2]"]),
        ("init_args: {size: 10}", "init_arg: {size: 10}", ["data", "'init_arg'", "'init_args'"]),
        ("init_args: {size: 10}", "init_args: 10", ["data.init_args", "by name", "10"]),
        ("network: {class_path: ToyNet, init_args: {width: 4}}", "scale: 1", ["task", "ToyTask needs 'network'"]),
        ("lr: 1e-3", "lr: -1", ["trainer.lr", "-1"]),
        ("{size: 10}", "{size: 10", ["r.yaml, line 4", "broken YAML"]),
        ("seed: 5", "seed: 5\nseed: 6", ["'seed' is given twice"]),
        ("seed: 5", "seed: !!python/object/apply:os.system [echo]", ["broken YAML"]),
    ],
)
def test_a_mistake_is_one_line_with_the_way_out(old, new, words):
    assert old in TEXT
    message = mistake_in(TEXT.replace(old, new))
    for word in words:
        assert word in message, message


def mistake_in(text: str) -> str:
    message = mistake(text)
    assert message.startswith("r.yaml")
    return message


@pytest.mark.parametrize(
    ("text", "word"), [("", "an empty file"), ("[1]", "a list"), ("x: 1", "'x'"), ("seed: 1", "no 'data'")]
)
def test_what_is_no_recipe_says_so(text, word):
    assert word in mistake(text)


def test_missing_files_and_names(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.yaml' is neither a file nor the name of a recipe"):
        load_recipe(tmp_path / "nowhere.yaml")
    with pytest.raises(UserError, match="is a folder"):
        load_recipe(tmp_path)
    with pytest.raises(UserError, match=r"did you mean 'generic/mixture-flow-matching'"):
        find_recipe("generic/mixture-flow-maching")
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a text file"):
        load_recipe(binary)


def test_recipes_are_found_by_name_and_by_path():
    path = find_recipe("generic/mixture-flow-matching")
    assert path.is_file()
    assert find_recipe(path) == path
    assert find_recipe("recipes/generic/mixture-flow-matching.yaml").samefile(path)


def test_numbers_in_scientific_notation_are_numbers():
    assert parse_yaml("[1e-4, 1E3, -2.5e-1, .5e2, 1.0e-3, 1e5x, 0x10]", "t") == [
        1e-4,
        1e3,
        -0.25,
        50.0,
        1e-3,
        "1e5x",
        16,
    ]


def test_yaml_anchors_and_merges_still_work():
    assert parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", "t")["b"] == {"x": 1, "y": 3}


def test_numbers_survive_the_dump():
    recipe = parse(TEXT, ("trainer.lr", "1e-7"))
    assert yaml.safe_load(recipe.dump())["trainer"]["lr"] == 1e-7


def test_what_a_constructor_refuses_is_said_in_its_own_words():
    message = mistake_in(
        TEXT.replace(
            "sampler: {solver: Midpoint,",
            "sampler: {solver: Midpoint, controller: {class_path: VarianceAdaptive, init_args: {eta: -1}},",
        )
    )
    assert message == "r.yaml: VarianceAdaptive: eta must be 0 or more (infinity makes one step), not -1.0"
    assert "task cannot be built with these values: RuntimeError" in mistake_in(TEXT.replace("width: 4", "width: -4"))
