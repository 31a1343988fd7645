from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

import flowkit as fk


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_train_writes_a_run_with_the_resolved_recipe(flowkit, toy_recipe, tmp_path):
    code, out, _ = flowkit("train", toy_recipe, "--out", tmp_path / "r", "--trainer.steps", 2, "--seed", 3, "--json")
    assert code == 0
    assert json.loads(out)["summary"]["steps"] == 2
    resolved = yaml.safe_load((tmp_path / "r" / "recipe.yaml").read_text())
    assert resolved["seed"] == 3
    assert resolved["trainer"]["steps"] == 2
    assert resolved["sampler"]["solver"]["class_path"].endswith(".Midpoint")


def test_the_default_folder_is_named_after_the_recipe(flowkit, toy_recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert flowkit("train", toy_recipe, "--trainer.steps", 1)[0] == 0
    assert (tmp_path / "runs" / "toy" / "recipe.yaml").is_file()


def test_a_dry_run_writes_nothing(flowkit, toy_recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = flowkit("train", toy_recipe, "--dry-run")
    assert (code, list(tmp_path.iterdir())) == (0, [])
    assert "dry run" in out


def test_one_batch_is_overfitted(flowkit, toy_recipe, tmp_path):
    options = [
        "--overfit-batch",
        "--trainer.steps",
        300,
        "--trainer.lr",
        "1e-2",
        "--trainer.log_every",
        50,
        "--trainer.ema",
        0,
    ]
    assert flowkit("train", toy_recipe, "--out", tmp_path / "r", *options, "--task.network.width", 32)[0] == 0
    losses = [row["train/loss"] for row in lines(tmp_path / "r" / "metrics.jsonl") if "train/loss" in row]
    assert losses[-1] < 0.8 * losses[0]


def test_a_run_goes_on_from_its_folder_alone(flowkit, toy_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(toy_run, run, symlinks=True)
    code, _, err = flowkit("train", run, "--resume", "last", "--trainer.steps", 6)
    assert code == 0, err
    assert json.loads((run / "summary.json").read_text())["steps"] == 6


def test_a_finished_run_is_not_overwritten(flowkit, toy_run, toy_recipe, tmp_path):
    code, _, err = flowkit("train", toy_recipe, "--out", toy_run)
    assert code == 2
    assert "--resume last" in err
    code, _, err = flowkit("train", toy_run)
    assert code == 2
    assert "--resume last" in err
    code, _, err = flowkit("train", tmp_path)
    assert code == 2
    assert "without recipe.yaml" in err


def test_sample_writes_files_and_obeys_the_sampler(flowkit, toy_run, tmp_path):
    def points(name, *options):
        code, out, err = flowkit(
            "sample", toy_run, "-n", 5, "--device", "cpu", "--out", tmp_path / name, "--json", *options
        )
        assert code == 0, err
        return (tmp_path / name / "points.txt").read_text(), json.loads(out)["files"]["points"]

    plain, file = points("a")
    assert len(plain.splitlines()) == 5
    assert file == str(tmp_path / "a" / "points.txt")
    assert points("b")[0] == plain
    assert points("c", "--seed", 1)[0] != plain
    assert points("d", "--steps", 1)[0] != plain
    assert points("e", "--solver", "Heun")[0] != plain
    assert points("f", "--sampler.steps", 1)[0] == points("d", "--steps", 1)[0]
    assert points("g", "--solver", "DormandPrince", "--tolerance", "1e-4")[0] != plain
    assert (
        points("h", "--temperature", "0")[0].splitlines().count(points("h", "--temperature", "0")[0].splitlines()[0])
        == 5
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--solver", "Huen"], ["did you mean 'Heun'?"]),
        (["--grid", "Uniform"], ["did you mean 'UniformGrid'?"]),
        (["--device", "tpu9"], ["device 'tpu9'"]),
        (["--sampler.stps", "3"], ["did you mean 'steps'?"]),
        (["--trainer.steps", "3"], ["trainer"]),
    ],
)
def test_sample_refuses_what_cannot_be(flowkit, toy_run, tmp_path, options, words):
    code, out, err = flowkit("sample", toy_run, "--out", tmp_path / "x", *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    for word in words:
        assert word in err
    assert not (tmp_path / "x").exists()


def test_evaluate_prints_and_writes_metrics(flowkit, toy_run, tmp_path):
    code, out, _ = flowkit(
        "evaluate", toy_run, "--steps", 2, "--device", "cpu", "--json", "--out", tmp_path / "m" / "e.json"
    )
    assert code == 0
    assert json.loads(out)["metrics"]["evaluations"] == 2
    assert json.loads((tmp_path / "m" / "e.json").read_text()) == json.loads(out)
    assert "spread" in flowkit("evaluate", toy_run, "--device", "cpu")[1]
    code, _, err = flowkit("evaluate", toy_run, "--device", "cpu", "--limit", -3)
    assert (code, err) == (2, "flowkit: --limit -3: at least 1 sample\n")


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("methods", ["FlowMatching"]),
        ("solvers", ["Euler", "Midpoint", "DormandPrince"]),
        ("paths", ["LinearPath", "VPBetaPath"]),
        ("couplings", ["Independent", "MinibatchOT", "Sinkhorn", "GivenPairs"]),
        ("sources", ["Gaussian"]),
        ("times", ["UniformTimes"]),
        ("grids", ["EDMGrid"]),
        ("guidance", ["ClassifierFree"]),
        ("controllers", ["Tolerance"]),
        ("predictions", ["Velocity"]),
        ("data", ["MixtureData", "ToyData", "Prompts"]),
        ("tasks", ["PointsTask", "ToyTask"]),
        ("networks", ["ToyNet"]),
        ("recipes", ["generic/mixture-flow-matching"]),
        ("plugins", ["speech", "toy"]),
        ("pretrained", []),
    ],
)
def test_list(flowkit, kind, names):
    code, out, _ = flowkit("list", kind, "--json")
    assert code == 0
    entries = json.loads(out)
    for name in names:
        entry = next(e for e in entries if e["name"] == name)
        assert entry["summary"], f"{name} has no summary"
    assert flowkit("list", kind)[0] == 0


def test_evaluate_of_an_empty_split_says_so_and_names_another(flowkit, monkeypatch, tmp_path):
    monkeypatch.setenv("FLOWKIT_CACHE", str(tmp_path))
    few = ("--data.episodes", 12, "--device", "cpu")
    code, out, err = flowkit("evaluate", "policy/fork", *few)
    assert (code, out) == (2, "")
    assert "the test split of policy/fork is empty; --split train or --split validation" in err
    code, out, err = flowkit("evaluate", "policy/fork", *few, "--task.rollout_episodes", 2)
    assert code == 0
    assert "success" in out
    assert "the test split of policy/fork is empty" in err
    assert "action_rmse" in flowkit("evaluate", "policy/fork", *few, "--split", "validation", "--limit", 8)[1]


def test_list_alone_lists_the_kinds(flowkit):
    out = flowkit("list")[1]
    for kind in ("methods", "recipes", "data", "solvers", "paths", "couplings", "pretrained"):
        assert f"{kind} " in out


def test_show(flowkit, toy_run, toy_recipe):
    assert json.loads(flowkit("show", toy_run, "--json")[1])["task"] == "ToyTask"
    assert "recipe:" in flowkit("show", toy_run)[1]
    shown = yaml.safe_load(flowkit("show", toy_recipe, "--trainer.steps", 11)[1])
    assert shown["trainer"]["steps"] == 11
    described = flowkit("show", "FlowMatching")[1]
    assert "flowkit.objectives.flow_matching.FlowMatching" in described
    assert "drop_condition: float (default 0.0)" in described
    assert json.loads(flowkit("show", "Tolerance", "--json")[1])["arguments"]
    assert "steps: int" in flowkit("show", "Sampler")[1]


def test_show_tells_a_model_card_whole_and_readably(flowkit):
    card = json.loads(flowkit("show", "policy/fork", "--json")[1])
    out = flowkit("show", "policy/fork")[1].split("\nrecipe:")[0]
    assert " ".join(card["summary"].split()) in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 120
    assert "{" not in out
    assert "None" not in out
    assert f"success: {card['metrics']['success']}" in out


def test_show_of_a_class_prints_no_addresses(flowkit):
    assert "optimiser: Optimiser (default Adam())" in flowkit("show", "Trainer")[1]
    task = flowkit("show", "PolicyTask")[1]
    assert "encoder: Callable[[ObservationSpec], Encoder] (default ObservationEncoder)" in task


def test_list_prints_a_sentence_and_json_and_show_the_whole(flowkit):
    entries = json.loads(flowkit("list", "recipes", "--json")[1])
    whole = next(e["summary"] for e in entries if e["name"] == "policy/smoke/bc-fork")
    short = next(line for line in flowkit("list", "recipes")[1].splitlines() if line.startswith("policy/smoke/bc-fork"))
    assert short.endswith(whole.split(". ")[0] + ".")
    # A command after a sentence, or an abbreviation at its end, are no part of the next one.
    line = next(line for line in flowkit("list", "recipes")[1].splitlines() if line.startswith("video/codec-street"))
    assert line.endswith("minutes on a GPU.")
    shown = flowkit("show", "policy/smoke/bc-fork")[1]
    comment = [line.removeprefix("# ") for line in shown.splitlines() if line.startswith("# ")]
    assert " ".join(comment) == whole
    assert yaml.safe_load(shown)["seed"] == 0
    assert "(K. Ito and L. Johnson," in flowkit("list", "data")[1]  # an initial ends no sentence


def test_training_ends_with_the_use_that_the_plugin_names(flowkit, toy_recipe, tmp_path):
    from flowkit.config.plugins import plugins

    assert "flowkit sample" in flowkit("train", toy_recipe, "--out", tmp_path / "toy")[1]
    verbs = {name: plugin.use for name, plugin in plugins().items()}
    assert verbs["policy"].startswith("flowkit rollout {run} ")
    assert verbs["speech"].startswith("flowkit speak {run} ")
    recipe = "policy/smoke/bc-fork"
    out = flowkit("train", recipe, "--trainer.steps", 1, "--trainer.evaluate_every", 0, "--out", tmp_path / "bc")[1]
    assert f"use it: flowkit rollout {tmp_path / 'bc'} " in out


def test_data(flowkit, toy_recipe):
    assert json.loads(flowkit("data", "prepare", toy_recipe, "--json")[1]) == {
        "train": 64,
        "validation": 64,
        "test": 64,
    }
    assert "64 samples" in flowkit("data", "prepare", toy_recipe)[1]
    assert yaml.safe_load(flowkit("data", "stats", toy_recipe, "--data.size", 5)[1])["size"] == 5


def test_a_run_and_its_checkpoints_load_as_models(flowkit, toy_run):
    link = fk.from_pretrained(toy_run)
    checkpoint = fk.from_pretrained(toy_run / "checkpoints" / "last")
    weights = load_file(toy_run / "checkpoints" / "last" / "model" / "model.safetensors")
    for name, tensor in checkpoint.task.state_dict().items():
        assert torch.equal(tensor, weights[name])
        assert torch.equal(tensor, link.task.state_dict()[name])
    saved = fk.save_pretrained(toy_run.parent / "saved", checkpoint.task, recipe=checkpoint.recipe)
    config = yaml.safe_load((saved / "config.yaml").read_text())
    assert config["trainer"]["steps"] == 4  # carried along for the record
    assert torch.equal(fk.load(saved)(3), fk.load(toy_run)(3))


def test_an_unfinished_checkpoint_is_not_a_model(flowkit, toy_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(toy_run, run, symlinks=True)
    for link in ("last", "best"):
        (run / "checkpoints" / link).unlink(missing_ok=True)
    assert fk.from_pretrained(run) is not None  # found without links too
    for seal in run.glob("checkpoints/*/complete.json"):
        seal.unlink()
    code, _, err = flowkit("sample", run)
    assert code == 2
    assert "no complete checkpoint" in err
