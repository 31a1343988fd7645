"""Every objective of the kit trains, saves, loads and samples in two domains, by one line of their recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import flowkit
from flowkit.cli.list import classes
from flowkit.cli.main import main

OBJECTIVES = sorted(
    name for name, cls in classes("methods").items() if cls.__module__.startswith("flowkit.objectives.")
)
OBJECTIVES.remove("OwnLoss")  # the absence of a flow
DOMAINS = {
    "policy": ("policy/smoke/flow-fork", ["--data.episodes", "4", "--trainer.batch", "8"]),
    "video": ("video/smoke/river-sprites", ["--trainer.batch", "4", "--data.clips", "8"]),
    "points": ("generic/mixture-flow-matching", ["--data.size", "500", "--trainer.batch", "32"]),
}
#: Arguments of the constructor, where its defaults are not for three steps.
ARGUMENTS = {
    "SeqRF": {"teacher_steps": 1},
    "PhasedRectifiedDiffusion": {"teacher_steps": 1},
    "CaLMFlow": {"points": 5},
}
#: How it is sampled, and by which network, where that is not the recipe's.
SETTINGS = {
    "SeqRF": ["--sampler.grid", "SegmentGrid", "--sampler.grid.segments", "4"],
    "PhasedRectifiedDiffusion": [
        "--sampler.grid", "SegmentGrid", "--sampler.grid.segments", "4", "--sampler.solver", "DDIM",
    ],
    "RectifiedDiffusion": ["--sampler.solver", "DDIM"],
    "CaLMFlow": ["--task.network", "CausalTransformer"],
}  # fmt: skip
#: CaLMFlow reads trajectories by a network of its own, which no video network is.
OTHER = {"CaLMFlow": {"video": "points"}}
QUIET = [
    "--trainer.steps", "3", "--trainer.evaluate_every", "0", "--trainer.sample_every", "0", "--trainer.warmup", "0",
    "--trainer.checkpoint_every", "0", "--trainer.progress", "false", "--trainer.tensorboard", "false",
    "--sampler.steps", "4", "--device", "cpu",
]  # fmt: skip


def train(domain: str, objective: str, out: Path, *more: str) -> int:
    recipe, small = DOMAINS[domain]
    line = json.dumps({"class_path": objective, "init_args": ARGUMENTS.get(objective, {})})
    chosen = ["--task.objective", line, *SETTINGS.get(objective, [])]
    return main(["train", recipe, "--out", str(out), *QUIET, *small, *chosen, *more])


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """A trained flow of each domain, made when it is asked for."""
    folder, made = tmp_path_factory.mktemp("teachers"), {}

    def teacher(domain: str) -> str:
        if domain not in made:
            made[domain] = folder / domain
            assert train(domain, "FlowMatching", made[domain]) == 0
        return str(made[domain])

    return teacher


@pytest.mark.parametrize("domain", ["policy", "video"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_it_trains_saves_loads_and_samples(objective, domain, teachers, tmp_path, capsys):
    domain = OTHER.get(objective, {}).get(domain, domain)
    run, out = tmp_path / "run", tmp_path / "out"
    taught = ["--teacher", teachers(domain)] if classes("methods")[objective].needs_teacher else []
    assert train(domain, objective, run, *taught) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert main(["sample", str(run), "-n", "2", "--device", "cpu", "--out", str(out), "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert files
    assert all(Path(file).stat().st_size > 0 for file in files.values())
    loaded = flowkit.from_pretrained(run)
    assert type(loaded.task.objective).__name__ == objective
    saved = flowkit.save_pretrained(tmp_path / "saved", loaded.task, recipe=loaded.recipe)
    assert flowkit.load(saved) is not None
