from __future__ import annotations

import json
import shutil

import pytest
import yaml

FEW = ("--pairs", 40, "--shard", 16, "--trainer.steps", 3, "--device", "cpu")


def test_two_rounds_and_a_distillation_are_runs_that_sample_and_evaluate(flowkit, toy_run, tmp_path):
    out = tmp_path / "reflow"
    code, text, err = flowkit("reflow", toy_run, "--rounds", 2, "--distill", 1, "--out", out, "--json", *FEW)
    assert code == 0, err
    rounds = json.loads(text)["rounds"]
    assert [entry["folder"] for entry in rounds] == [str(out / name) for name in ("round-1", "round-2", "distilled")]
    names = [entry["summary"]["pairs"]["name"] for entry in rounds]
    assert names == [str(toy_run), str(out / "round-1"), str(out / "round-2")]
    assert len({entry["summary"]["pairs"]["teacher"] for entry in rounds}) == 3
    for entry in rounds:
        folder = entry["folder"]
        code, _, err = flowkit("sample", folder, "-n", 3, "--device", "cpu", "--out", tmp_path / "s")
        assert code == 0, err
        code, _, err = flowkit("evaluate", folder, "--device", "cpu")
        assert code == 0, err
    recipe = yaml.safe_load((out / "distilled" / "recipe.yaml").read_text())
    arguments = recipe["task"]["init_args"]["objective"]["init_args"]
    assert arguments["coupling"]["class_path"].endswith(".GivenPairs")
    assert arguments["times"]["class_path"].endswith(".GridTimes")
    assert recipe["sampler"]["solver"]["class_path"].endswith(".Euler")
    assert recipe["sampler"]["steps"] == 1
    assert recipe["data"]["init_args"]["data"]["class_path"].endswith("ToyData"), "the real data, not pairs of pairs"


def test_the_sampler_options_are_the_teachers_and_dotted_ones_the_students(flowkit, toy_run, tmp_path):
    options = ("--steps", 7, "--solver", "Heun", "--sampler.steps", 2)
    code, text, err = flowkit("reflow", toy_run, "--out", tmp_path / "r", "--json", *options, *FEW)
    assert code == 0, err
    summary = json.loads(text)["rounds"][0]["summary"]
    assert (summary["pairs"]["solver"], summary["pairs"]["steps"], summary["pairs"]["nfe"]) == ("Heun", 7, 14)
    assert summary["sampling"]["steps"] == 2


def test_the_same_command_goes_on_and_a_round_resumes_like_any_run(flowkit, toy_run, tmp_path):
    out = tmp_path / "r"
    assert flowkit("reflow", toy_run, "--out", out, *FEW)[0] == 0
    made = {path.name: path.stat().st_mtime_ns for path in (out / "round-1" / "pairs").glob("*.safetensors")}
    code, text, err = flowkit("reflow", toy_run, "--out", out, "--json", *FEW, "--trainer.steps", 5)
    assert code == 0, err
    assert json.loads(text)["rounds"][0]["summary"]["steps"] == 5
    assert made == {path.name: path.stat().st_mtime_ns for path in (out / "round-1" / "pairs").glob("*.safetensors")}
    code, _, err = flowkit("train", out / "round-1", "--resume", "last", "--trainer.steps", 6)
    assert code == 0, err
    assert json.loads((out / "round-1" / "summary.json").read_text())["pairs"]["name"] == str(toy_run)


def test_a_round_of_another_teacher_is_not_continued(flowkit, toy_run, toy_recipe, tmp_path):
    assert flowkit("reflow", toy_run, "--out", tmp_path / "r", *FEW)[0] == 0
    assert flowkit("train", toy_recipe, "--seed", 9, "--out", tmp_path / "other")[0] == 0
    code, _, err = flowkit("reflow", tmp_path / "other", "--out", tmp_path / "r", *FEW)
    assert (code, err.count("\n")) == (2, 1)
    assert "another teacher" in err
    shutil.rmtree(tmp_path / "r" / "round-1" / "pairs")
    code, _, err = flowkit("train", tmp_path / "r" / "round-1", "--resume", "last")
    assert code == 2
    assert "holds no pairs" in err
    assert flowkit("sample", tmp_path / "r" / "round-1", "--device", "cpu", "--out", tmp_path / "s")[0] == 0


def test_a_dry_run_keeps_nothing(flowkit, toy_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = flowkit("reflow", toy_run, "--dry-run", "--device", "cpu")
    assert code == 0, err
    assert "nothing was kept" in out
    assert list(tmp_path.iterdir()) == []


def test_help_has_an_example(flowkit):
    code, out, _ = flowkit("reflow", "--help")
    assert code == 0
    assert "flowkit reflow runs/mixture" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rounds", 0], "at least one round"),
        (["--pairs", 0], "positive"),
        (["--inverted", 2], "from 0 to 1"),
        (["--solver", "Huen"], "did you mean 'Heun'?"),
        (["--trainer.stps", 2], "did you mean 'steps'?"),
        (["--device", "tpu9"], "device 'tpu9'"),
        (["--pairs", 8, "--task.network.width", 5], "change no network"),
    ],
)
def test_mistakes_are_one_line(flowkit, toy_run, tmp_path, options, words):
    code, out, err = flowkit("reflow", toy_run, "--out", tmp_path / "x", *options)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert words in err


def test_a_teacher_that_cannot_be_solved_so_leaves_nothing_behind(flowkit, toy_recipe, tmp_path):
    chosen = ("--task.objective", "ConsistencyFM", "--sampler.solver", "Euler", "--sampler.steps", 2)
    assert flowkit("train", toy_recipe, "--out", tmp_path / "means", *chosen)[0] == 0
    out = tmp_path / "r"
    code, _, err = flowkit("reflow", tmp_path / "means", "--out", out, *FEW)
    assert code == 2
    assert err.count("\n") == 1
    assert "RK4 would take for a field" in err
    code, _, err = flowkit("reflow", tmp_path / "means", "--out", out, "--solver", "Euler", "--inverted", 1.0, *FEW)
    assert code == 2
    assert "a span that rises" in err
    assert not list(out.glob("*/*"))
    assert flowkit("reflow", tmp_path / "means", "--out", out, "--solver", "Euler", "--steps", 2, *FEW)[0] == 0


def test_an_unknown_run_is_one_line(flowkit):
    code, _, err = flowkit("reflow", "runs/nothing")
    assert (code, err.count("\n")) == (2, 1)
    assert "neither a run folder" in err
