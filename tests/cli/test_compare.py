"""``flowkit compare``: entries, equal trainings, tables, going on, and what cannot be compared."""

from __future__ import annotations

import csv
import json

import pytest

from flowkit.cli.compare import numbers, rows, seeds, split_entries
from flowkit.cli.main import main
from flowkit.config.recipe import load_recipe
from flowkit.errors import UserError
from flowkit.points import MixtureData
from flowkit.train.comparison_entry import Entry
from flowkit.train.comparison_measures import judged, metric_of
from flowkit.train.trainer import Trainer

RECIPE = "generic/mixture-flow-matching"
QUICK = [
    "--device", "cpu", "--limit", "60", "--trainer.progress", "false", "--trainer.evaluate_every", "0",
    "--trainer.sample_every", "0", "--trainer.batch", "64", "--data.size", "2000", "--data.held_out", "100",
    "--trainer.tensorboard", "false", "--task.network.width", "16",
]  # fmt: skip


def test_entries_hold_settings_shares_and_changes_of_the_recipe():
    entry = Entry.parse("ConsistencyFM:segments=2:anchored_steps=50%:coupling.beta=5:trainer.lr=1e-4:pairs=7")
    assert entry.pairs == 7
    assert entry.overrides(300) == [
        ("task.objective", "ConsistencyFM"), ("task.objective.segments", "2"),
        ("task.objective.anchored_steps", "150"), ("task.objective.coupling.beta", "5"), ("trainer.lr", "1e-4"),
    ]  # fmt: skip
    with pytest.raises(UserError, match="--steps N"):
        entry.overrides(0)
    with pytest.raises(UserError, match="write a class"):
        Entry.parse("Flow Matching")
    with pytest.raises(UserError, match="pairs=few"):
        Entry.parse("FlowMatching:pairs=few")


def test_entries_are_divided_by_commas_outside_brackets():
    assert split_entries(["A,B:segments=[0,.5,1]", "C"]) == ["A", "B:segments=[0,.5,1]", "C"]
    assert seeds("3") == [0, 1, 2]
    assert seeds("4,5") == [4, 5]
    with pytest.raises(UserError, match="--nfe 1;2"):
        numbers("--nfe", "1;2")


def test_a_file_may_hold_an_objective(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("{class_path: FlowMatching, init_args: {coupling: MinibatchOT}}")
    ((path, text),) = Entry.parse(str(file)).overrides(1)
    assert path == "task.objective"
    assert json.loads(text)["init_args"] == {"coupling": "MinibatchOT"}
    file.write_text("[1]")
    with pytest.raises(UserError, match="class_path"):
        Entry.parse(str(file))


def test_it_trains_measures_tabulates_draws_and_goes_on(tmp_path, capsys):
    out = tmp_path / "out"
    line = ["compare", RECIPE, "--nfe", "1,2", "--steps", "5", "--out", str(out), *QUICK, "--json", "--objectives"]
    first = ["FlowMatching", "ConsistencyFM:segments=2"]
    assert main([*line, *first]) == 0
    report = json.loads(capsys.readouterr().out)
    plain, consistent = (report["results"][name]["0"] for name in first)
    assert {n: p["nfe"] for n, p in plain["points"].items()} == {"1": 1, "2": 2}
    assert list(consistent["points"]) == ["2"]
    assert "segment" in consistent["missing"]["1"]
    assert plain["steps"] == consistent["steps"] == 5
    assert plain["relative_straightness"] > 0
    assert {path.name for path in out.glob("*.png")} == {"quality.png", "straightness.png", "trajectories.png"}
    with (out / "results.csv").open() as file:
        assert [row["calls"] for row in csv.DictReader(file)] == ["1", "2", "2"]
    assert main(["evaluate", str(out / "FlowMatching" / "seed-0"), "--device", "cpu", "--limit", "20"]) == 0
    capsys.readouterr()

    # Another entry joins: what was trained stays as it is, and students take the plain flow for their teacher.
    before = (out / "FlowMatching" / "seed-0" / "summary.json").stat().st_mtime_ns
    student = "ConstantAcceleration:pairs=64"
    assert main([*line, "FlowMatching", student]) == 0
    more = json.loads(capsys.readouterr().out)
    assert (out / "FlowMatching" / "seed-0" / "summary.json").stat().st_mtime_ns == before
    assert more["results"]["FlowMatching"]["0"] == plain
    taught = more["results"][student]["0"]
    assert taught["teacher_seconds"] == plain["seconds"]
    assert list(taught["points"]) == ["2"]  # the initial velocity is a call
    assert taught["points"]["2"]["steps"] == 1

    assert main([*[word if word != "5" else "6" for word in line], "FlowMatching"]) == 2
    assert "steps = 5, not 6" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        (["FlowMatching", "FlowMatching"], "twice"),
        (["ConsistancyFM"], "ConsistencyFM"),
        (["ConsistencyFM:segments=2:delta=3"], "delta"),
        (["ConstantAcceleration:pairs=10"], "--teacher RUN"),
        (["FlowMatching", "--teacher", "no-such-run"], "no-such-run"),
        (["FlowMatching", "--limit", "0"], "--limit 0"),
        (["FlowMatching", "--nfe", "0,1"], "--nfe 0,1"),
        (["FlowMatching", "SeqRF", "--nfe", "1,2"], "SeqRF: 10 steps on UniformGrid() steps over"),
        (["FlowMatching", "SeqRF:sampler.steps=6"], "SeqRF:sampler.steps=6: SeqRF: 6 steps on"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_training(objectives, message, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["compare", RECIPE, "--steps", "2", "--out", str(out), *QUICK, "--objectives", *objectives]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not out.exists() or not list(out.iterdir())


def test_objectives_that_cannot_take_the_recipes_steps_take_those_of_the_comparison(tmp_path, capsys):
    out = tmp_path / "out"
    entries = ["FlowMatching", "SeqRF:segments=4:teacher_steps=1", "CaLMFlow:points=5:task.network=CausalTransformer"]
    line = ["compare", RECIPE, "--nfe", "1,4", "--steps", "2", "--out", str(out), *QUICK, "--json", "--objectives"]
    assert main([*line, *entries]) == 0
    report = json.loads(capsys.readouterr().out)["results"]
    assert [list(report[name]["0"]["points"]) for name in entries] == [["1", "4"], ["4"], ["4"]]
    assert "multiple of 4" in report[entries[1]]["0"]["missing"]["1"]


def test_the_table_shows_means_deviations_and_the_best():
    def run(one, two):
        return {"points": {"1": {"m": one}, "2": {"m": two}}, "steps": 5, "seconds": 1.0}

    report = {"results": {"a": {"0": run(1.0, 4.0), "1": run(3.0, 4.0)}, "b": {"0": run(5.0, 3.0)}}}
    table = rows(report, "m", "min", [1, 2, 4])
    assert table[1][1] == "2 ±1.4*"
    assert table[2][1:4] == ("5", "3*", "-")
    assert rows(report, "m", "max", [1])[2][1] == "5*"


def test_what_is_good_of_a_measure_is_the_recipes_word_the_names_or_the_users():
    recipe = load_recipe(RECIPE, trainer=Trainer)  # its best is the energy distance, min
    run = {"points": {"1": {"psnr": 20.0, "energy_distance": 1.0, "nfe": 1.0, "steps": 1}}}
    report = {"results": {"a": {"0": run}}}
    assert metric_of(report, "", recipe) == ("energy_distance", "min")
    assert metric_of(report, "psnr", recipe) == ("psnr", "max")
    assert metric_of(report, "psnr", recipe, "min") == ("psnr", "min")
    with pytest.raises(UserError, match="energy_distance"):
        metric_of(report, "energy", recipe)


def test_an_empty_test_split_leaves_the_validation_split():
    data = MixtureData(size=10, held_out=3)
    assert len(judged(data, "")) == 3
    assert len(judged(data, "train")) == 10
    with pytest.raises(UserError, match="--split train holds samples"):
        judged(MixtureData(size=10, held_out=0), "")
