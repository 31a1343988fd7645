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
DEEP = {"lengths": True, "deep": 3}
SHARDED = {"world": 2, "trainer": {"batch": 4, "bucket": 8, "parallel": "fsdp"}}
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
    "deep": [(DEEP | {"trainer": {"batch": 8, "bucket": 8}}, 0)],
    "sharded": [(DEEP | SHARDED, [0, 0])],
    "sharded killed": [
        (DEEP | SHARDED | {"kill_at": 13}, [-9, -9]),
        (DEEP | SHARDED | {"kill_in_save": 24, "resume": "last"}, None),
        (DEEP | SHARDED | {"resume": "last"}, [0, 0]),
    ],
    "two, then one": [
        (DEEP | SHARDED | {"kill_at": 13}, [-9, -9]),
        (DEEP | {"resume": "last", "trainer": {"batch": 8, "bucket": 8}}, 0),
    ],
    "one, then two": [
        (DEEP | {"kill_at": 13, "trainer": {"batch": 8, "bucket": 8}}, -9),
        (DEEP | SHARDED | {"resume": "last"}, [0, 0]),
    ],
    "recomputed": [(DEEP | {"dropout": 0.3, "trainer": {"bucket": 8, "checkpoint_activations": True}}, 0)],
    "kept": [(DEEP | {"dropout": 0.3, "trainer": {"bucket": 8}}, 0)],
    "tiny judged": [({"held_out": 1, "trainer": {"steps": 2, "batch": 8, "evaluate_every": 1}}, 0)],
    "tiny judged by two": [
        ({"held_out": 1, "world": 2, "trainer": {"steps": 2, "batch": 4, "evaluate_every": 1}}, [0, 0])
    ],
    "one told": [(DEEP | SHARDED | {"signal_at": 7, "rank": 1}, [0, 0])],
    "one lost": [(DEEP | SHARDED | {"kill_at": 13, "rank": 1}, [2, -9])],
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
    for run, jobs in JOBS.items():
        for (_, expected), found in zip(jobs, performed.statuses[run], strict=True):
            if expected is None:  # one is killed, and the other may not go on alone
                assert found[0] == -9, (run, found, performed.said)
                assert found[1] != 0, (run, found, performed.said)
            else:
                assert found == expected, (run, found, KILLS, performed.said)


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


def test_sharded_training_equals_one_process_and_goes_on_on_any_number(performed: Performed) -> None:
    alone = performed.records("deep")
    assert alone[-1]["eval/loss"] < 0.9 * next(r["eval/loss"] for r in alone if "eval/loss" in r)
    for other in ("sharded", "two, then one", "one, then two"):
        found = performed.records(other)
        assert [r.keys() for r in found] == [r.keys() for r in alone]
        for mine, theirs in zip(found, alone, strict=True):
            for name in mine.keys() - {"eval/limit"}:
                assert mine[name] == pytest.approx(theirs[name], abs=2e-6), (other, name, mine["step"])
    assert performed.records("sharded killed") == performed.records("sharded"), "bit for bit"
    folder = performed.root / "sharded killed" / "checkpoints"
    assert not list(folder.glob(".*")), "what was cut short is cleaned away"
    mine, theirs = (
        load_file(performed.root / run / "checkpoints/last/model/model.safetensors") for run in ("sharded", "deep")
    )
    assert mine.keys() == theirs.keys()
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], atol=1e-5, rtol=1e-5)
    assert len(list((performed.root / "sharded/checkpoints/last/state/shards").glob("*.safetensors"))) == 2


def test_a_split_smaller_than_the_processes_is_judged_as_by_one(performed: Performed) -> None:
    alone, two = performed.records("tiny judged"), performed.records("tiny judged by two")
    judged = [(a["eval/loss"], b["eval/loss"]) for a, b in zip(alone, two, strict=True) if "eval/loss" in a]
    assert len(judged) == 2
    for mine, theirs in judged:
        assert mine == pytest.approx(theirs, abs=1e-6)


def test_a_signal_to_one_process_stops_all_with_a_checkpoint(performed: Performed) -> None:
    steps = sorted(int(p.name) for p in (performed.root / "one told/checkpoints").iterdir() if p.name.isdigit())
    assert steps == [5, 8, 9], "asked every third step"


def test_a_killed_process_ends_the_other_in_one_line(performed: Performed) -> None:
    assert "process 0 stops: another process of this run is gone" in performed.said
    assert (performed.root / "one lost/checkpoints/last").resolve().name == "00000010"
    assert not list((performed.root / "one lost/checkpoints").glob(".*"))


def test_torchrun_ends_with_the_cause_of_the_process_that_failed(tmp_path: Path) -> None:
    home = Path(__file__).parents[2]
    job = DEEP | {"folder": str(tmp_path / "run"), "rank": 1, "fail_at": 7}
    job["trainer"] = {"batch": 4, "parallel": "fsdp"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, toy_training.__file__, json.dumps(job)],
        capture_output=True, text=True, timeout=120, cwd=home, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(home)},
    )  # fmt: skip
    assert done.returncode != 0
    assert "flowkit: process 1 failed: ValueError: a fault of this process" in done.stderr
    assert "process 0 stops because process 1 failed: ValueError: a fault of this process" in done.stderr
    assert (tmp_path / "run/checkpoints/last").resolve().name == "00000005"


def test_recomputed_activations_change_nothing(performed: Performed) -> None:
    assert performed.differing("kept", "recomputed") == []
    assert performed.records("kept") == performed.records("recomputed")


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
