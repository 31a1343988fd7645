"""The key ``teacher`` of a recipe: loaded, begun as, recorded, not saved twice; another data set as the source."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

import flowkit
from flowkit.cli.main import main
from flowkit.cond import Cond
from flowkit.config.recipe import load_recipe
from flowkit.errors import UserError
from flowkit.nn.mlp import MLP
from flowkit.nn.network import NetworkSpec
from flowkit.points import TwoMoons
from flowkit.procedures.pair_store import weights_digest
from flowkit.random import Rows
from flowkit.sources import FromData
from flowkit.train.teacher import teach
from flowkit.train.trainer import Trainer

SMALL = [
    "--task.network.width", "16", "--data.size", "256", "--data.held_out", "32", "--trainer.batch", "32",
    "--trainer.evaluate_every", "0", "--trainer.sample_every", "0", "--trainer.progress", "false",
    "--trainer.tensorboard", "false", "--device", "cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "teacher"
    assert main(["train", "generic/mixture-flow-matching", "--out", str(run), "--trainer.steps", "3", *SMALL]) == 0
    return run


def student(run, teacher, *more: str) -> int:
    return main(["train", "generic/mixture-seqrf", "--out", str(run), "--teacher", str(teacher), *SMALL, *more])


def test_it_is_recorded_frozen_and_not_saved_twice_and_a_resumed_run_ends_equal(teacher, tmp_path, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert student(whole, teacher, "--trainer.steps", "4", "--trainer.checkpoint_every", "2") == 0
    assert student(cut, teacher, "--trainer.steps", "4", "--trainer.checkpoint_every", "2") == 0
    before = weights_digest(flowkit.from_pretrained(teacher).task.state_dict())
    assert main(["train", str(cut), "--resume", "2"]) == 0
    states = [load_file(run / "checkpoints/last/model/model.safetensors") for run in (whole, cut)]
    assert weights_digest(states[0]) == weights_digest(states[1])
    assert not [name for name in states[0] if "teacher" in name]
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["teacher"]["digest"] == summary["conditions"]["teacher"] == before
    assert yaml.safe_load((whole / "recipe.yaml").read_text())["teacher"] == str(teacher)
    assert flowkit.load(whole)(4).shape == (4, 2)  # sampling needs no teacher


def test_the_student_begins_as_its_teacher(teacher):
    overrides = [("teacher", str(teacher)), ("task.network.width", "16")]
    recipe = load_recipe("generic/mixture-seqrf", overrides, trainer=Trainer)
    built = recipe.build("task")
    lesson = teach(recipe, built.task)
    assert lesson is not None
    assert not any(p.requires_grad for p in lesson.networks.parameters())
    x, t = torch.randn(9, 2), torch.rand(9)
    mine = built.task.objective.field(built.task.networks)(x, t).v
    assert torch.allclose(mine, lesson.field()(x, t).v, atol=1e-6)
    networks = built.task.networks
    assert networks.main.spec.times == 2


def test_a_grown_network_keeps_what_it_knew_whatever_else_it_reads():
    torch.manual_seed(0)
    sizes = {"width": 8, "depth": 2, "vectors": {"c": 3}}
    one, two = MLP(NetworkSpec(), **sizes), MLP(NetworkSpec(times=2), **sizes)  # pyright: ignore[reportArgumentType]
    two.begin_as(one)
    x, t, cond = torch.randn(5, 2), torch.rand(5), Cond({"c": torch.randn(5, 3)})
    assert torch.allclose(two((x,), (t, torch.rand(5)), cond)["v"], one((x,), (t,), cond)["v"], atol=1e-6)
    with pytest.raises(UserError, match="cannot begin as"):
        MLP(NetworkSpec(), width=9, dimension=3).begin_as(one)


def test_mistakes_are_one_line(teacher, tmp_path, capsys):
    recipe = ["train", "generic/mixture-flow-matching", "--out", str(tmp_path / "a"), *SMALL]
    assert main([*recipe, "--teacher", str(teacher)]) == 2
    assert "learns from data alone" in capsys.readouterr().err
    assert main([*recipe, "--task.objective", "SeqRF"]) == 2
    assert "the key teacher" in capsys.readouterr().err
    assert student(tmp_path / "b", tmp_path / "none") == 2
    assert "neither a run folder nor a pretrained model" in capsys.readouterr().err
    assert student(tmp_path / "c", teacher, "--sampler.steps", "6") == 2
    assert "a multiple of 4" in capsys.readouterr().err
    assert student(tmp_path / "e", teacher, "--task.network.width", "20") == 2
    assert "cannot begin as another size" in capsys.readouterr().err
    assert main(["reflow", str(teacher), "--task.objective", "SeqRF", "--out", str(tmp_path / "d")]) == 2
    assert "wants no pairs" in capsys.readouterr().err


def test_reflow_with_another_objective_takes_its_defaults(teacher, tmp_path, capsys):
    few = ["--pairs", "64", "--batch", "32", "--steps", "2", "--trainer.steps", "2", "--device", "cpu"]
    assert main(["reflow", str(teacher), "--task.objective", "SimpleReFlow", "--out", str(tmp_path), *few]) == 0
    objective = yaml.safe_load((tmp_path / "round-1/recipe.yaml").read_text())["task"]["init_args"]["objective"]
    chosen = {name: str((value or {}).get("class_path")).split(".")[-1] for name, value in
              objective["init_args"].items() if isinstance(value, dict)}  # fmt: skip
    assert chosen["weighting"] == "RelativeLoss"
    assert chosen["times"] == "ExponentialTimes"
    assert chosen["coupling"] == "GivenPairs"
    assert chosen["prediction"] == "Velocity"  # the teacher's, for its weights mean that


def test_another_data_set_is_a_source():
    data, source = TwoMoons(size=50), FromData(TwoMoons(size=50))
    like = torch.zeros(200, 2)
    x0 = source.draw(like, Cond(), Rows(5, 0, 200))
    points = {tuple(row) for row in data.split("train").x.tolist()}
    drawn = [tuple(row) for row in x0.tolist()]
    assert set(drawn) <= points
    assert len(set(drawn)) > 40
    assert torch.equal(x0, source.draw(like, Cond(), Rows(5, 0, 200)))
    assert not source.standard_normal
    assert not source.capturable
    for wrong, message in ((torch.zeros(2, 3), "must agree"), (like, "temperature")):
        with pytest.raises(UserError, match=message):
            source.draw(wrong, Cond(), None, temperature=1.0 if wrong is not like else 0.5)
    with pytest.raises(UserError, match="no tensor 'y'"):
        FromData(TwoMoons(size=5), "y").draw(like, Cond(), None)
    with pytest.raises(UserError, match="no density"):
        source.log_prob(like, Cond())


def test_a_network_whose_further_inputs_come_last_keeps_what_it_knew():
    class Plain(MLP):
        def begin_as(self, other):
            super(MLP, self).begin_as(other)

    torch.manual_seed(0)
    one, two = Plain(NetworkSpec(), width=8), Plain(NetworkSpec(times=2), width=8)
    two.begin_as(one)
    x, t = torch.randn(5, 2), torch.rand(5)
    assert torch.allclose(two((x,), (t, torch.rand(5)), Cond())["v"], one((x,), (t,), Cond())["v"], atol=1e-6)
