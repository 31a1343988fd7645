from __future__ import annotations

from pathlib import Path

import pytest

from flowkit.cli.main import main
from flowkit.config import plugins

TOY = Path(__file__).parents[1] / "config" / "toy_plugin.py"
TOY_RECIPE = """
description: two points
data: {class_path: ToyData, init_args: {size: 64}}
task:
  class_path: ToyTask
  init_args: {network: {class_path: ToyNet, init_args: {width: 4}}, objective: FlowMatching}
trainer:
  {steps: 4, batch: 8, device: cpu, evaluate_every: 0, sample_every: 0, checkpoint_every: 0, tensorboard: false,
   progress: false}
sampler: {solver: Midpoint, steps: 3}
seed: 0
"""


@pytest.fixture(autouse=True)
def _forget_plugins(monkeypatch, tmp_path_factory):
    """Nothing that a test opts in stays, and nothing is written into the checkout."""
    before = dict(plugins._added)
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
    yield
    plugins._added.clear()
    plugins._added.update(before)


@pytest.fixture
def flowkit(capsys):
    """Run a command line: (exit code, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([*map(str, arguments), "--plugin", str(TOY)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="session")
def toy_recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipes") / "toy.yaml"
    path.write_text(TOY_RECIPE)
    return path


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory, toy_recipe):
    """A finished run of the toy recipe; tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("runs") / "toy"
    assert main(["train", str(toy_recipe), "--out", str(folder), "--plugin", str(TOY)]) == 0
    return folder
