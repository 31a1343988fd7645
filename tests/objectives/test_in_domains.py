"""Each objective in every domain by a line of the recipe: it trains, resumes bit for bit, saves, loads and samples."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

import flowkit
from flowkit.config.recipe import load_recipe
from flowkit.train.trainer import Trainer

#: Overrides of a recipe, the networks of a run, and those of a model folder.
OBJECTIVES = {
    "consistency": (
        [("task.objective", "ConsistencyFM"), ("task.objective.target", "ema"), ("task.objective.anchored_steps", "1")],
        {"main", "target"},
        {"main"},
    ),
    "acceleration": (
        [("task.objective", "ConstantAcceleration"), ("task.objective.velocity_steps", "1")],
        {"main", "acceleration"},
        {"main", "acceleration"},
    ),
    "learned": ([("task.objective.coupling", "LearnedCoupling")], {"main", "encoder"}, {"main"}),
}
DOMAINS = {
    "policy/smoke/flow-fork": [
        ("data.episodes", "4"), ("task.rollout_episodes", "0"), ("task.objective.prediction", "Velocity"),
    ],
    "speech/smoke/matcha-rulemade": [
        ("data.sentences", '["Hello there.", "Good night.", "Not today.", "Press one.", "Thank you."]'),
    ],
    "video/smoke/river-sprites": [
        ("data.clips", "8"), ("data.validation", "2"), ("data.test", "2"), ("trainer.batch", "4"),
    ],
}  # fmt: skip
QUICK = [
    ("trainer.steps", "2"), ("trainer.checkpoint_every", "1"), ("trainer.evaluate_every", "0"),
    ("trainer.sample_every", "0"), ("trainer.log_every", "1"), ("trainer.progress", "false"),
    ("trainer.tensorboard", "false"), ("trainer.device", "cpu"), ("trainer.ema", "0.5"), ("sampler.solver", "Euler"),
    ("sampler.steps", "2"),
]  # fmt: skip


def networks_of(file: Path) -> set[str]:
    return {name.split(".")[2] for name in load_file(file) if name.startswith("networks.by_name.")}


@pytest.mark.parametrize("name", DOMAINS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_it_trains_resumes_saves_loads_and_samples(name, objective, tmp_path):
    overrides, of_run, of_model = OBJECTIVES[objective]
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    def train(folder: Path, resume: int | None = None) -> None:
        recipe = load_recipe(name, [*DOMAINS[name], *overrides, *QUICK], trainer=Trainer)
        built = recipe.build()
        built.trainer.fit(
            built.task, built.data, sampler=built.sampler, seed=0, folder=folder, recipe_text=recipe.dump(),
            resume=resume,
        )  # fmt: skip

    train(whole)
    shutil.copytree(whole, parts, symlinks=True)
    train(parts, resume=1)
    for file in ("model/model.safetensors", "state/weights.safetensors", "state/optimiser.safetensors"):
        once, twice = (load_file(run / "checkpoints" / "last" / file) for run in (whole, parts))
        assert once.keys() == twice.keys()
        assert all(once[key].equal(twice[key]) for key in once), file
    assert networks_of(whole / "checkpoints" / "last" / "model" / "model.safetensors") == of_run
    # A target is never trained: it has no weights beside the saved ones.
    trained = networks_of(whole / "checkpoints" / "last" / "state" / "weights.safetensors")
    assert trained == of_run - {"target"}

    loaded = flowkit.from_pretrained(whole)
    folder = flowkit.save_pretrained(tmp_path / "saved", loaded.task, recipe=loaded.recipe)
    assert networks_of(folder / "model.safetensors") == of_model
    again = flowkit.from_pretrained(folder).task
    state = again.state_dict()
    assert all(state[key].equal(value) for key, value in loaded.task.state_dict().items() if key in state)
    assert {*again.networks} == of_model | ({"target"} & of_run)  # the target begins as its network again
    assert again.sample(1, sampler=loaded.sampler, seed=3)
