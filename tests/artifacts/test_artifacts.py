from __future__ import annotations

import json
import os
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import flowkit
from flowkit.artifacts import CARD, CONFIG, INFO, WEIGHTS, from_pretrained, save_pretrained
from flowkit.config import plugins
from flowkit.config.plugins import Plugin
from flowkit.errors import UserError
from flowkit.model_card import Card, model_card
from flowkit.solvers.heun import Heun


@pytest.fixture
def task(recipe):
    task = recipe.build("task").task
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(0.1)
        task.mean.fill_(3.0)
    return task


@pytest.fixture
def folder(tmp_path, recipe, task):
    card = Card(
        title="A toy",
        data="drawn by hand, CC0",
        licence="CC0-1.0",
        metrics={"spread": 0.123456},
        nfe=6,
        limits="It is a toy.",
    )
    return save_pretrained(tmp_path / "model", task, recipe=recipe, statistics={"size": 10}, card=card)


def test_a_saved_model_comes_back_equal(folder, task):
    loaded = from_pretrained(folder)
    for name, tensor in task.state_dict().items():
        assert torch.equal(loaded.task.state_dict()[name], tensor)
    assert not loaded.task.training
    assert loaded.sampler.steps == 3
    assert loaded.info["statistics"] == {"size": 10}
    assert torch.equal(loaded.pipeline()(4, seed=2), flowkit.load(folder)(4, seed=2))


def test_the_folder_holds_four_files_and_the_card_says_what_it_must(folder):
    assert sorted(p.name for p in folder.iterdir()) == sorted([CONFIG, WEIGHTS, INFO, CARD])
    card = (folder / CARD).read_text()
    for word in (
        "# A toy",
        "drawn by hand, CC0",
        "CC0-1.0",
        "| spread | 0.1235 |",
        "6 network calls",
        "It is a toy.",
        "config.yaml",
    ):
        assert word in card
    assert oct(folder.stat().st_mode & 0o777) == "0o755"
    _, read_by_the_hub, text = card.split("---\n", 2)
    about = yaml.safe_load(read_by_the_hub)
    assert (about["library_name"], about["license"]) == ("flowkit", "cc0-1.0")
    assert text.startswith("\n# A toy\n")
    other = model_card(Card(licence='mine: "ask me"'), "recipe", {"task": "T", "parameters": 1, "flowkit": "0"})
    assert yaml.safe_load(other.split("---\n", 2)[1])["license_name"] == 'mine: "ask me"'


def test_loading_needs_neither_the_data_nor_its_class(folder):
    config = yaml.safe_load((folder / CONFIG).read_text())
    config["data"] = {"class_path": "somewhere.Else", "init_args": {"file": "/not/there"}}
    config["trainer"] = {"an_option_of_yesterday": 1}
    (folder / CONFIG).write_text(yaml.safe_dump(config))
    assert from_pretrained(folder).task.networks.main is not None
    with pytest.raises(UserError, match=r"somewhere.Else"):
        from_pretrained(folder, with_data=True)


def test_overrides_change_the_sampler(folder):
    loaded = from_pretrained(folder, overrides=[("sampler.solver", "Heun"), ("sampler.steps", "7")])
    assert isinstance(loaded.sampler.solver, Heun)
    assert loaded.sampler.steps == 7
    with pytest.raises(UserError, match="did you mean 'Heun'"):
        from_pretrained(folder, overrides=[("sampler.solver", "Huen")])


def test_another_sampler_from_python(folder):
    few = flowkit.load(folder, sampler=flowkit.Sampler(steps=1))(3)
    assert not torch.equal(few, flowkit.load(folder)(3))


def test_other_weights_may_be_stored(tmp_path, recipe, task):
    averages = {name: torch.zeros_like(tensor) for name, tensor in task.state_dict().items()}
    folder = save_pretrained(tmp_path / "m", task, recipe=recipe, weights=averages)
    assert not any(t.any() for t in load_file(folder / WEIGHTS).values())
    assert task.mean.eq(3).all()


def test_an_earlier_model_is_replaced_and_nothing_else(tmp_path, recipe, task, folder):
    (folder / "stale").write_text("x")
    save_pretrained(folder, task, recipe=recipe)
    assert not (folder / "stale").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="no model folder"):
        save_pretrained(other, task, recipe=recipe)
    assert (other / "thesis.txt").read_text() == "precious"


def spoil_version(folder: Path) -> None:
    info = json.loads((folder / INFO).read_text())
    (folder / INFO).write_text(json.dumps({**info, "format": 99}))


def spoil_shape(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    save_file({**state, "mean": torch.zeros(3)}, folder / WEIGHTS)


def spoil_names(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    save_file({"average": state.pop("mean"), **state}, folder / WEIGHTS)


def truncate(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_version, ["format 99 is newer", "upgrade"]),
        (spoil_shape, ["mean has shape (3,)", "the task wants (2,)"]),
        (spoil_names, ["1 missing (first: mean)", "1 unknown (first: average)"]),
        (truncate, ["model.safetensors is truncated or damaged"]),
        (lambda f: (f / WEIGHTS).write_bytes(b""), ["truncated or damaged"]),
        (lambda f: (f / WEIGHTS).unlink(), ["model.safetensors is missing"]),
        (lambda f: (f / CONFIG).unlink(), ["config.yaml is missing"]),
        (lambda f: (f / CONFIG).write_text("task: {"), ["config.yaml", "broken YAML"]),
        (lambda f: (f / CONFIG).write_text(""), ["config.yaml", "an empty file"]),
        (lambda f: (f / INFO).write_text("{"), ["flowkit.json is damaged"]),
        (lambda f: (f / INFO).write_text("[]"), ["flowkit.json is damaged"]),
        (lambda f: [p.unlink() for p in f.iterdir()], ["is no model", "checkpoints/"]),
    ],
)
def test_damage_is_one_line(folder, spoil, words):
    spoil(folder)
    with pytest.raises(UserError) as caught:
        from_pretrained(folder)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_names_and_devices(folder, tmp_path):
    with pytest.raises(UserError, match="neither a run folder nor a pretrained model"):
        flowkit.load("toy/nothing")
    with pytest.raises(UserError, match="is a file"):
        flowkit.load(folder / WEIGHTS)
    with pytest.raises(UserError, match="device 'cdua' cannot be used"):
        flowkit.load(folder, device="cdua")
    shutil.copytree(folder, tmp_path / "shipped" / "small")
    plugins.add_plugin(replace(plugins.plugins()["toy"], pretrained=tmp_path / "shipped"))
    assert flowkit.load("toy/small")(2).shape == (2, 2)
    with pytest.raises(UserError, match="did you mean 'toy/small'"):
        flowkit.load("toy/smal")
    plugins.add_plugin(Plugin("empty", pretrained=tmp_path / "nowhere"))
    assert flowkit.load("toy/small") is not None


def test_no_pickle_is_ever_read(folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'pwned'}",)

    torch.save({"mean": Evil()}, folder / WEIGHTS)
    with pytest.raises(UserError, match="truncated or damaged"):
        from_pretrained(folder)
    assert not (tmp_path / "pwned").exists()


def test_a_full_disk_leaves_nothing_behind(tmp_path, recipe, task, folder):
    """A limit on the size of files stands for the disk: writing the weights fails in the middle."""
    big = {name: torch.zeros(20_000) for name in task.state_dict()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        for target in (folder, tmp_path / "fresh"):
            with pytest.raises(UserError, match="cannot be written"):
                save_pretrained(target, task, recipe=recipe, weights=big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert from_pretrained(folder).info["title"] == "A toy"
