from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import flowkit
from flowkit.config import plugins

ROOT = Path(__file__).parents[2]
HEAVY = {
    *("accelerate", "jsonargparse", "safetensors", "scipy", "matplotlib", "tensorboard", "tqdm", "psutil", "yaml"),
    *("torchaudio", "librosa", "soundfile", "av", "phonemizer", "transformers", "peft", "pandas", "PIL"),
}


def modules_after(statement: str, *, given: str = "") -> set[str]:
    """Top-level modules that ``statement`` loads in a fresh interpreter, beyond those that ``given`` brings along."""
    script = (
        f"import sys; sys.argv = ['x']\n{given}\nbefore = set(sys.modules)\n{statement}\n"
        "print('|'.join(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd=ROOT,
    )
    return {name.split(".")[0] for name in done.stdout.strip().rpartition("\n")[2].split("|")}


def test_import_flowkit_is_light():
    loaded = modules_after("import flowkit")
    assert "flowkit" in loaded
    assert not loaded & {*HEAVY, "torch", "numpy"}


def test_a_plain_script_loads_only_torch_numpy_einops_and_jaxtyping():
    names = ("solve", "Euler", "FlowMatching", "LinearPath", "Sampler", "Cond", "log_likelihood")
    loaded = modules_after(
        f"import flowkit\nfor name in {names}: getattr(flowkit, name)", given="import torch, numpy, einops, jaxtyping"
    )
    assert "flowkit" in loaded
    assert not loaded & HEAVY


def test_help_loads_no_torch_and_plugins_are_light():
    loaded = modules_after(
        "from flowkit.cli.main import main\n"
        "for line in (['--help'], ['train', '--help'], ['speak', '--help'], ['list']): assert main(line) == 0\n"
        "from flowkit.config import plugins\nassert plugins.plugins() and not plugins.failures"
    )
    assert not loaded & ({*HEAVY, "torch", "numpy"} - {"yaml"})


@pytest.mark.parametrize("name", flowkit._WHERE)
def test_every_public_name_exists_where_it_is_said_to_be_defined(name):
    value = getattr(flowkit, name)
    assert value.__module__ == flowkit._WHERE[name]
    assert name in dir(flowkit)


def test_a_wrong_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'FlowMaching'"):
        _ = flowkit.FlowMaching


def test_every_class_that_recipes_may_name_imports():
    plugins.import_classes()
    assert not plugins.failures


def test_imports_point_down():
    program = shutil.which("lint-imports", path=str(Path(sys.executable).parent)) or shutil.which("lint-imports")
    if program is None:
        pytest.skip("import-linter is not installed (pip install flowkit-fm[lint])")
    done = subprocess.run([program, "--no-cache"], capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
