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
}
#: Arguments of the constructor, where its defaults are not for three steps.
ARGUMENTS = {
    "SeqRF": {"teacher_steps": 1},
    "PhasedRectifiedDiffusion": {"teacher_steps": 1},
}
#: How it is sampled, and by which network, where that is not the recipe's.
SETTINGS = {
    "SeqRF": ["--sampler.grid", "SegmentGrid", "--sampler.grid.segments", "4"],
    "PhasedRectifiedDiffusion": [
        "--sampler.grid", "SegmentGrid", "--sampler.grid.segments", "4", "--sampler.solver", "DDIM",
    ],
    "RectifiedDiffusion": ["--sampler.solver", "DDIM"],
}  # fmt: skip
#: Trained, saved, loaded and sampled by smoke recipes of their own, or by tests/objectives/test_in_domains.py.
ELSEWHERE = {
    ("FlowMatching", "policy"), ("FlowMatching", "video"), ("AdaFlow", "policy"), ("Regression", "policy"),
    ("CaLMFlow", "policy"), ("CaLMFlow", "video"), ("ConsistencyFM", "policy"), ("ConsistencyFM", "video"),
    ("ConstantAcceleration", "policy"), ("ConstantAcceleration", "video"),
}  # fmt: skip
CASES = [(one, domain) for one in OBJECTIVES for domain in ("policy", "video") if (one, domain) not in ELSEWHERE]
QUIET = [
    "--trainer.steps", "3", "--trainer.evaluate_every", "0", "--trainer.sample_every", "0", "--trainer.warmup", "0",
    "--trainer.checkpoint_every", "0", "--trainer.progress", "false", "--trainer.tensorboard", "false",
    "--sampler.steps", "4", "--device", "cpu",
]  # fmt: skip


#: How a batch is transported where data have conditions.
COUPLINGS = [
    ("MinibatchOT", "policy", {"condition_cost": {"observation": 10.0}}),
    ("MinibatchOT", "video", {"ignore_condition": True}),
    ("Sinkhorn", "policy", {"condition_cost": {"observation": 10.0}}),
    ("Sinkhorn", "video", {"ignore_condition": True}),
]


def train(domain: str, objective: str, out: Path, *more: str, **arguments: object) -> int:
    recipe, small = DOMAINS[domain]
    line = json.dumps({"class_path": objective, "init_args": {**ARGUMENTS.get(objective, {}), **arguments}})
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


@pytest.mark.parametrize(("objective", "domain"), CASES)
def test_it_trains_saves_loads_and_samples(objective, domain, teachers, tmp_path, capsys):
    run = tmp_path / "run"
    taught = ["--teacher", teachers(domain)] if classes("methods")[objective].needs_teacher else []
    assert train(domain, objective, run, *taught) == 0, capsys.readouterr().err
    assert type(lives(run, tmp_path, capsys)).__name__ == objective


@pytest.mark.parametrize(("coupling", "domain", "arguments"), COUPLINGS)
def test_couplings_that_transport_a_batch_train_save_load_and_sample(coupling, domain, arguments, tmp_path, capsys):
    run = tmp_path / "run"
    chosen = {"class_path": coupling, "init_args": arguments}
    assert train(domain, "FlowMatching", run, coupling=chosen) == 0, capsys.readouterr().err
    assert type(lives(run, tmp_path, capsys).coupling).__name__ == coupling
    assert train(domain, "FlowMatching", tmp_path / "refused", coupling={"class_path": coupling}) == 2
    assert "would move x0 across the conditions" in capsys.readouterr().err


def lives(run, tmp_path, capsys):
    """The objective of ``run``, loaded, saved once more and sampled from there."""
    out, loaded = tmp_path / "out", flowkit.from_pretrained(run)
    saved = flowkit.save_pretrained(tmp_path / "saved", loaded.task, recipe=loaded.recipe)
    capsys.readouterr()
    assert main(["sample", str(saved), "-n", "2", "--device", "cpu", "--out", str(out), "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert files
    assert all(Path(file).stat().st_size > 0 for file in files.values())
    return loaded.task.objective
