"""What ``flowkit new`` writes works at once: its own tests are run, by pytest, as a newcomer would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_tests(target: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(target.parent), str(target)],
        capture_output=True, text=True, timeout=300, cwd=target.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "passed" in done.stdout


def check_style(folder: Path) -> None:
    files = [str(path) for path in folder.rglob("*.py") if "test" not in path.name]
    program = Path(sys.executable).parent / "ruff"
    if not program.exists():
        pytest.skip("ruff is not installed")
    config = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    done = subprocess.run([program, "check", *config, "--ignore", "ARG,I001", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_new_method_passes_its_test(flowkit, tmp_path):
    code, out, _ = flowkit("new", "method", "late-weighting", "--out", tmp_path)
    assert code == 0
    assert "pytest" in out
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "late_weighting.py",
        "late_weighting.yaml",
        "test_late_weighting.py",
    ]
    assert "@" not in (tmp_path / "late_weighting.yaml").read_text()
    check_style(tmp_path)
    run_tests(tmp_path / "test_late_weighting.py")


def test_a_new_domain_passes_its_test(flowkit, tmp_path):
    code, _, _ = flowkit("new", "domain", "waves", "--out", tmp_path)
    assert code == 0
    assert (tmp_path / "waves" / "plugin.py").is_file()
    check_style(tmp_path)
    run_tests(tmp_path / "waves" / "tests" / "test_waves.py")


def test_nothing_is_overwritten(flowkit, tmp_path):
    (tmp_path / "mine.yaml").write_text("precious")
    code, _, err = flowkit("new", "method", "mine", "--out", tmp_path)
    assert code == 2
    assert "exists already" in err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.yaml"]
    assert (tmp_path / "mine.yaml").read_text() == "precious"
