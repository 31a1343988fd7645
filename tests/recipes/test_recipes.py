"""Every recipe parses; every smoke recipe (and the generic ones) trains two steps, saves, loads and samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import flowkit
from flowkit.cli.main import main
from flowkit.config.recipe import load_recipe, parse_recipe, recipe_names
from flowkit.train.trainer import Trainer

ROOT = Path(__file__).parents[2] / "recipes"
ALL = sorted(path.relative_to(ROOT).with_suffix("").as_posix() for path in ROOT.rglob("*.yaml"))
SMALL = [name for name in ALL if "/smoke/" in name or name.startswith("generic/")]


def test_there_are_recipes():
    assert SMALL
    assert set(ALL) <= set(recipe_names())


@pytest.mark.parametrize("name", ALL)
def test_it_parses_and_its_resolved_form_parses_back_to_itself(name):
    recipe = load_recipe(name, trainer=Trainer)
    again = parse_recipe(yaml.safe_load(recipe.dump()), name, trainer=Trainer)
    assert again.resolved == recipe.resolved


@pytest.mark.parametrize("name", ALL)
def test_its_data_is_built_without_files(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FLOWKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert load_recipe(name).build("data").data is not None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", SMALL)
def test_it_trains_saves_loads_and_samples(name, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "out"
    few = [
        "--trainer.steps",
        "2",
        "--trainer.evaluate_every",
        "0",
        "--trainer.sample_every",
        "0",
        "--trainer.checkpoint_every",
        "0",
    ]
    quiet = ["--device", "cpu", "--trainer.progress", "false", *few]
    resolved = load_recipe(name).resolved
    if teacher := resolved.get("teacher"):
        # It names the folder where its own recipe trains.
        base = next(other for other in SMALL if other.split("/")[-1] == Path(teacher).name)
        assert main(["train", base, "--out", str(tmp_path / "teacher"), *quiet]) == 0
        quiet += ["--teacher", str(tmp_path / "teacher")]
    assert main(["train", name, "--out", str(run), *quiet]) == 0
    loaded = flowkit.from_pretrained(run)
    saved = flowkit.save_pretrained(tmp_path / "saved", loaded.task, recipe=loaded.recipe)
    steps = "4" if "SegmentGrid" in str(resolved["sampler"]) else "2"
    if "CaLMFlow" in str(resolved["task"]):  # its number of steps is that of its points
        steps = str(resolved["sampler"]["steps"])
    few = ["-n", "2", "--steps", steps, "--device", "cpu"]
    capsys.readouterr()
    assert main(["sample", str(saved), *few, "--out", str(out), "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert files
    assert all(Path(file).stat().st_size > 0 for file in files.values())
