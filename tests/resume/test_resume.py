"""Killed anywhere, a run goes on and equals the undisturbed one bit for bit."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_training
from safetensors.torch import load_file

MIXED = {"dropout": 0.3, "lengths": True, "trainer": {"accumulate": 2, "bucket": 8}}
EVEN = {"lengths": True, "trainer": {"batch": 4, "bucket": 8}}
#: Drawn anew at each run of the tests: the property holds at every step.
KILLS = sorted(random.SystemRandom().sample(range(1, 24), 3))
#: run -> its jobs one after the other, and the exit status that each must have.
JOBS: dict[str, list[tuple[dict[str, Any], Any]]] = {
    "mixed": [(MIXED, 0)],
    "killed": [
        (MIXED | {"kill_at": KILLS[0]}, -9),
        (MIXED | {"kill_at": KILLS[1], "resume": "last"}, -9),
        (MIXED | {"kill_at": KILLS[2], "resume": "last"}, -9),
        (MIXED | {"kill_in_save": 24, "resume": "last"}, -9),
        (MIXED | {"resume": "last"}, 0),
    ],
    "one": [(EVEN | {"trainer": {"batch": 8, "bucket": 8}}, 0)],
    "accumulated": [(EVEN | {"trainer": {"batch": 4, "accumulate": 2, "bucket": 8}}, 0)],
    "two": [(EVEN | {"world": 2}, [0, 0])],
    "two killed": [
        (EVEN | {"world": 2, "kill_at": 13}, [-9, -9]),
        (EVEN | {"world": 2, "resume": "last"}, [0, 0]),
    ],
    "told": [
        (EVEN | {"signal_at": 7, "trainer": {"batch": 8, "bucket": 8}}, 0),
        (EVEN | {"signal_twice_at": 14, "resume": "last", "trainer": {"batch": 8, "bucket": 8}}, -2),
        (EVEN | {"resume": "last", "trainer": {"batch": 8, "bucket": 8}}, 0),
    ],
    "full": [({"file_limit": 1500, "limit_at": 9}, 2)],
}


@dataclass
class Performed:
    root: Path
    said: str
    statuses: dict[str, list[Any]]

    def checkpoint(self, run: str, step: int = 24) -> dict[str, torch.Tensor]:
        folder = self.root / run / "checkpoints" / f"{step:08d}"
        return {
            f"{file}/{name}": value
            for file in ("model/model", "state/weights", "state/optimiser", "state/random")
            for name, value in load_file(folder / f"{file}.safetensors").items()
        }

    def differing(self, one: str, other: str) -> list[str]:
        """Names of tensors of the last checkpoints that are not the same bits."""
        a, b = self.checkpoint(one), self.checkpoint(other)
        assert a.keys() == b.keys()
        return [name for name in a if not torch.equal(a[name], b[name])]

    def records(self, run: str) -> list[dict[str, float]]:
        return toy_training.records(self.root / run)


@pytest.fixture(scope="module")
def performed(tmp_path_factory: pytest.TempPathFactory) -> Performed:
    """All runs, in processes of their own."""
    root, home = tmp_path_factory.mktemp("runs"), Path(__file__).parents[2]
    jobs = [job | {"folder": str(root / run)} for run, runs in JOBS.items() for job, _ in runs]
    done = subprocess.run(
        [sys.executable, toy_training.__file__, json.dumps(jobs)],
        capture_output=True, text=True, timeout=300, cwd=home, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(home)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    codes = iter(json.loads(done.stdout.splitlines()[-1]))
    return Performed(root, done.stderr, {run: [next(codes) for _ in runs] for run, runs in JOBS.items()})


def test_every_process_ended_as_it_should(performed: Performed) -> None:
    expected = {run: [status for _, status in runs] for run, runs in JOBS.items()}
    assert performed.statuses == expected, (KILLS, performed.said)


def test_a_killed_run_goes_on_bit_for_bit(performed: Performed) -> None:
    assert performed.differing("mixed", "killed") == [], KILLS
    assert performed.records("mixed") == performed.records("killed"), KILLS
    assert not list((performed.root / "killed" / "checkpoints").glob(".*")), "what was cut short is cleaned away"


def test_two_processes_equal_one_with_twice_the_batch(performed: Performed) -> None:
    alone = performed.records("one")
    for other in ("accumulated", "two"):
        found = performed.records(other)
        assert [r.keys() for r in found] == [r.keys() for r in alone]
        for mine, theirs in zip(found, alone, strict=True):
            for name in mine.keys() - {"eval/limit"}:
                assert mine[name] == pytest.approx(theirs[name], abs=1e-6), (other, name, mine["step"])


def test_two_processes_go_on_bit_for_bit(performed: Performed) -> None:
    assert performed.differing("two", "two killed") == []
    assert performed.records("two") == performed.records("two killed")


def test_a_signal_writes_a_checkpoint_and_a_second_one_stops_at_once(performed: Performed) -> None:
    checkpoints = performed.root / "told" / "checkpoints"
    assert "SIGTERM: stopping after this step" in performed.said
    assert (checkpoints / "00000007" / "complete.json").exists()
    assert not (checkpoints / "00000014").exists()
    assert performed.differing("one", "told") == []


def test_a_full_disk_is_one_clear_line_and_leaves_nothing_half_written(performed: Performed) -> None:
    (line,) = [line for line in performed.said.splitlines() if "disk" in line]
    for text in ("disk is full", "step 10", "step 8 is whole", "--resume last"):
        assert text in line
    folder = performed.root / "full"
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"00000005", "00000008", "best", "last"}
    assert (folder / "checkpoints" / "last").resolve().name == "00000008"
    for record in (folder / "metrics.jsonl").read_text().splitlines():
        json.loads(record)
