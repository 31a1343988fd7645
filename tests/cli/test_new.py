"""What ``flowkit new`` writes works at once: its own tests are run, by pytest, as a newcomer would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_tests(folder: Path, *targets: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", *targets],
        capture_output=True, text=True, timeout=300, cwd=folder, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "passed" in done.stdout


def check_style(folder: Path) -> None:
    files = [str(path) for path in folder.rglob("*.py") if "test" not in path.name]
    program = Path(sys.executable).parent / "ruff"
    if not program.exists():
        pytest.skip("ruff is not installed")
    config = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    done = subprocess.run(
        [program, "check", *config, "--ignore", "ARG,I001", *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_a_new_method_and_a_new_domain_pass_their_tests(flowkit, tmp_path):
    code, out, _ = flowkit("new", "method", "late-weighting", "--out", tmp_path)
    assert code == 0
    assert "pytest" in out
    assert sorted(p.stem for p in tmp_path.iterdir()) == ["late_weighting", "late_weighting", "test_late_weighting"]
    assert flowkit("new", "domain", "Waves", "--out", tmp_path)[0] == 0
    assert (tmp_path / "waves" / "plugin.py").is_file()
    assert not [p for p in tmp_path.rglob("*.yaml") if "@" in p.read_text()]
    check_style(tmp_path)
    run_tests(tmp_path, "test_late_weighting.py", "waves")


def test_a_name_that_would_hide_a_module_is_refused(flowkit, tmp_path):
    code, _, err = flowkit("new", "method", "torch", "--out", tmp_path)
    assert code == 2
    assert "would hide the module 'torch'" in err
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(flowkit, tmp_path):
    (tmp_path / "mine.yaml").write_text("precious")
    code, _, err = flowkit("new", "method", "mine", "--out", tmp_path)
    assert code == 2
    assert "exists already" in err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.yaml"]
    assert (tmp_path / "mine.yaml").read_text() == "precious"
