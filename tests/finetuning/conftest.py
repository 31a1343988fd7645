"""Runs and adapters that tests share; ``short_training`` lies beside them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from flowkit.cli.main import main

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "train"))  # forked

from short_training import FEW

MANY = ("--trainer.steps", "40", "--trainer.lr", "0.03", "--trainer.ema", "0")


@pytest.fixture
def flowkit(capsys):
    """Run a command line: (exit code, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A short run of points; tests read it only."""
    folder = tmp_path_factory.mktemp("runs") / "points"
    assert main(["train", "generic/mixture-flow-matching", "--out", str(folder), *FEW]) == 0
    return folder


@pytest.fixture(scope="session")
def adapter(base, tmp_path_factory):
    """An adapter for it, of a few steps at a high rate."""
    folder = tmp_path_factory.mktemp("adapters") / "shifted"
    assert main(["finetune", str(base), "--out", str(folder), "--rank", "4", *FEW, *MANY]) == 0
    return folder / "adapter"


@pytest.fixture(scope="session")
def other_adapter(base, tmp_path_factory):
    """Another one, of another rank, seed and alpha."""
    folder = tmp_path_factory.mktemp("adapters") / "turned"
    options = ["--rank", "2", "--alpha", "8", "--seed", "5"]
    assert main(["finetune", str(base), "--out", str(folder), *FEW, *MANY, *options]) == 0
    return folder / "adapter"
