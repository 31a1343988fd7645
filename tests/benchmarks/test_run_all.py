"""The runner of the benchmarks: it goes on after a failure, and says what failed and what was left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import run_all
from benchmarks.run_all import BENCHMARKS, Benchmark, main


def script(text: str) -> str:
    return f"import json, os, sys\nout = sys.argv[sys.argv.index('--out') + 1]\n{text}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    says = "[os.environ['OMP_NUM_THREADS'], *sys.argv]"
    writes = f"os.makedirs(os.path.dirname(out), exist_ok=True)\njson.dump({says}, open(out, 'w'))"
    (tmp_path / "bad.py").write_text(script("sys.exit(3)"))
    (tmp_path / "good.py").write_text(script(writes))
    monkeypatch.setattr(run_all, "HERE", tmp_path)
    benchmarks = (Benchmark("bad"), Benchmark("good", quick=("--rounds", "1"), rivals=("no_such_rival", "json")))
    monkeypatch.setattr(run_all, "BENCHMARKS", benchmarks)
    return tmp_path


def test_it_goes_on_after_a_failure_and_says_so(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--out", str(folder / "out")]) == 1
    shown = capfd.readouterr()
    assert "failed, exit status 3" in shown.out
    assert "left out: no_such_rival" in shown.out
    assert "json" not in shown.out.replace(".json", "")
    assert "failed: bad" in shown.err
    threads, *words = json.loads((folder / "out" / "good.json").read_text())
    assert threads == "1"
    assert words[-2:] == ["--rounds", "1"]


def test_it_succeeds_where_all_do(folder: Path) -> None:
    assert main(["--only", "good", "--out", str(folder / "out")]) == 0
    assert "--rounds" not in json.loads((folder / "out" / "good.json").read_text())


def test_every_script_and_its_quick_options_exist() -> None:
    for benchmark in BENCHMARKS:
        source = benchmark.file.read_text(encoding="utf-8")
        if "from plane import" in source:  # options that small benchmarks share
            source += (run_all.HERE / "plane.py").read_text(encoding="utf-8")
        words = (*benchmark.arguments, *benchmark.quick)
        for option in ("--out", *(word for word in words if word.startswith("--"))):
            assert f'"{option}"' in source, f"{benchmark.name} has no {option}"
