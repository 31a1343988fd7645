"""Reflow on the recipe of the mixture: one short round straightens, and keeps what was learnt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import flowkit
from flowkit.artifacts import from_pretrained
from flowkit.config.recipe import load_recipe
from flowkit.metrics.point_sets import energy_distance
from flowkit.metrics.straightness import straightness
from flowkit.metrics.transport import transport_cost
from flowkit.points import MixtureData, PointsTask
from flowkit.random import mix_seed
from flowkit.solvers.controllers import FixedSteps
from flowkit.solvers.euler import Euler
from flowkit.solvers.rk4 import RK4
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.save import Save
from flowkit.solvers.solve import solve
from flowkit.train.reflow import Conditions, Reflow
from flowkit.train.trainer import Trainer

QUIET = [
    ("trainer.progress", "false"), ("trainer.tensorboard", "false"), ("trainer.device", "cpu"),
    ("trainer.evaluate_every", "0"), ("trainer.sample_every", "0"), ("trainer.ema", "0.99"),
]  # fmt: skip
STEPS = ("trainer.steps", "400")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """A short training of the recipe, and one round."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = load_recipe("generic/mixture-flow-matching", [*QUIET, STEPS], trainer=Trainer)
    built = recipe.build()
    built.trainer.fit(
        built.task, built.data, sampler=built.sampler, seed=0, folder=folder / "first", recipe_text=recipe.dump()
    )
    settings = Reflow(pairs=6000, shard=2500, overrides=[*QUIET, STEPS, ("trainer.batch", "256")])
    settings.round(folder / "first", folder / "second")
    return folder / "first", folder / "second"


def trajectories(run: Path) -> tuple[torch.Tensor, torch.Tensor]:
    task = from_pretrained(run).task
    x0 = torch.randn(2000, 2, generator=torch.Generator().manual_seed(11))
    with torch.no_grad():
        path = solve(
            task.objective.field(task.networks), x0, solver=Euler(), controller=FixedSteps(50), save=Save.STEPS
        )
    assert path.xs is not None
    assert path.ts is not None
    return path.xs, path.ts


def ends(run: Path) -> tuple[torch.Tensor, torch.Tensor]:
    task = from_pretrained(run).task
    x0 = torch.randn(4000, 2, generator=torch.Generator().manual_seed(12))
    with torch.no_grad():
        return x0, solve(task.objective.field(task.networks), x0, solver=RK4(), controller=FixedSteps(25)).x


def test_trajectories_become_straight(runs):
    (first, ts), (second, _) = trajectories(runs[0]), trajectories(runs[1])
    assert straightness(second, ts).relative < 0.1 * straightness(first, ts).relative


def test_transport_costs_no_more_for_convex_costs(runs):
    first, second = ends(runs[0]), ends(runs[1])
    for power in (1.0, 2.0, 4.0):
        assert transport_cost(*second, power=power) < 1.02 * transport_cost(*first, power=power)


def test_one_step_does_what_took_many(runs):
    real = MixtureData().split("test").x[:2000]

    def distance(run: Path, steps: int) -> float:
        pipeline = flowkit.load(run, sampler=Sampler(solver=Euler(), steps=steps))
        return energy_distance(pipeline(2000, seed=1), real)

    assert distance(runs[1], 1) < 0.1 * distance(runs[0], 1)
    assert distance(runs[1], 50) < 3 * distance(runs[0], 50) + 0.01


def test_a_round_is_a_run_like_any_other_and_says_where_it_comes_from(runs):
    loaded = from_pretrained(runs[1], with_data=True)
    assert loaded.info["pairs"]["name"] == str(runs[0])
    assert loaded.info["pairs"]["nfe"] == 100
    assert loaded.recipe.resolved["data"]["init_args"]["teacher"] == loaded.info["pairs"]["teacher"]
    assert loaded.recipe.resolved["data"]["init_args"]["data"]["class_path"].endswith(".MixtureData")
    assert loaded.data is not None
    assert len(loaded.data.split("test")) == 4000


def test_every_sample_gives_a_condition_before_one_comes_again():
    samples = MixtureData(size=30).split("train")
    conditions = Conditions(PointsTask.__new__(PointsTask), samples, seed=mix_seed(1))  # which rows is not the task's
    first, second = conditions.rows(range(30)), conditions.rows(range(30, 60))
    assert sorted(first) == sorted(second) == list(range(30))
    assert first != second
    assert conditions.rows([7, 31]) == [first[7], second[1]]
    assert conditions.lengths(range(3)) is None


GUIDED = """
data: {class_path: MixtureData, init_args: {size: 64, held_out: 16}}
task:
  class_path: PointsTask
  init_args:
    network: {class_path: MLP, init_args: {width: 8, depth: 1, labels: {label: 8}}}
    classes: 8
    objective: {class_path: FlowMatching, init_args: {drop_condition: 0.1}}
sampler: {guidance: {class_path: ClassifierFree, init_args: {scale: 3.0}}}
"""


def test_pairs_of_a_guided_teacher_give_a_student_that_needs_no_guidance(tmp_path):
    (tmp_path / "guided.yaml").write_text(GUIDED)
    few = [*QUIET, ("trainer.steps", "2")]
    recipe = load_recipe(tmp_path / "guided.yaml", few, trainer=Trainer)
    built = recipe.build()
    built.trainer.fit(
        built.task, built.data, sampler=built.sampler, seed=0, folder=tmp_path / "first", recipe_text=recipe.dump()
    )
    summary = Reflow(pairs=64, overrides=few).round(tmp_path / "first", tmp_path / "second")
    assert summary["pairs"]["guidance"]["scale"] == 3.0
    assert summary["pairs"]["nfe"] == 200, "both halves count"
    student = from_pretrained(tmp_path / "second")
    assert student.sampler.guidance is None
    assert student.task.objective.drop_condition == 0.0
    plain = Reflow(pairs=64, overrides=few, sampler=[("sampler.guidance", "null")])
    plain.round(tmp_path / "first", tmp_path / "plain")
    assert from_pretrained(tmp_path / "plain").task.objective.drop_condition == 0.1
