from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import flowkit
from flowkit.config import plugins

ROOT = Path(__file__).parents[2]
#: Third-party packages that touching a public name of the core may load.
LIGHT = {"torch", "numpy", "einops", "jaxtyping"}
HEAVY = [
    "accelerate", "jsonargparse", "safetensors", "scipy", "matplotlib", "tensorboard", "torchaudio", "librosa", "soundfile",
    "av", "phonemizer", "transformers", "peft", "pandas", "PIL", "tqdm", "psutil", "yaml",
]  # fmt: skip


def modules_after(statement: str) -> set[str]:
    script = f"import sys; sys.argv = ['x']\n{statement}\nprint('|'.join(sys.modules))"
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
    assert "torch" not in loaded
    assert not loaded & set(HEAVY)


def test_a_plain_script_loads_only_torch_numpy_einops_and_jaxtyping():
    loaded = modules_after(
        "import flowkit\nfor n in ('solve', 'Euler', 'FlowMatching', 'LinearPath', 'Sampler', 'Cond', 'log_likelihood'): getattr(flowkit, n)"
    )
    assert "torch" in loaded
    # What torch itself brings along is not ours to judge.
    assert not loaded & set(HEAVY) - modules_after("import torch, numpy, jaxtyping")


def test_help_loads_no_torch():
    loaded = modules_after(
        "from flowkit.cli.main import main\nmain(['--help']); main(['train', '--help']); main(['speak', '--help'])"
    )
    assert "torch" not in loaded
    assert not loaded & (set(HEAVY) - {"yaml"})


@pytest.mark.parametrize("name", flowkit._WHERE)
def test_every_public_name_exists_where_it_is_said_to_be_defined(name):
    value = getattr(flowkit, name)
    assert value.__module__ == flowkit._WHERE[name]
    assert name in dir(flowkit)


def test_a_wrong_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'FlowMaching'"):
        _ = flowkit.FlowMaching


def test_plugin_modules_are_light():
    loaded = modules_after("from flowkit.config import plugins; assert plugins.plugins() and not plugins.failures")
    assert "torch" not in loaded


def test_every_class_that_recipes_may_name_imports():
    plugins.import_classes()
    assert not plugins.failures


def test_imports_point_down():
    program = shutil.which("lint-imports", path=str(Path(sys.executable).parent)) or shutil.which("lint-imports")
    if program is None:
        pytest.skip("import-linter is not installed (pip install flowkit-fm[lint])")
    done = subprocess.run([program, "--no-cache"], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]
