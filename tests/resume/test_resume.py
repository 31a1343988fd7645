"""Killed anywhere, a run goes on and equals the undisturbed one bit for bit."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from forked import DRAWS, Runs
from safetensors.torch import load_file

MIXED = {"dropout": 0.3, "lengths": True, "trainer": {"accumulate": 2, "bucket": 8}}
EVEN = {"lengths": True, "trainer": {"batch": 4, "bucket": 8}}
DEEP = {"lengths": True, "deep": 2}
#: The trainer's settings of one process, and of two with the same global batch that divide the weights.
WHOLE = {"trainer": {"batch": 8, "bucket": 8, "steps": 16}}
SHARDED = {"world": 2, "trainer": {"batch": 4, "bucket": 8, "steps": 16, "parallel": "fsdp"}}
#: Drawn anew at each run of the tests: the property holds at every step.
KILLS = sorted(DRAWS.sample(range(1, 24), 3))
WORDS = ["train", "generic/mixture-flow-matching", "--device", "cpu", "--trainer.progress", "false"]
WORDS += ["--trainer.steps", "2", "--trainer.evaluate_every", "0", "--trainer.sample_every", "0"]
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
    "deep": [(DEEP | WHOLE, 0)],
    "sharded": [(DEEP | SHARDED, [0, 0])],
    "sharded killed": [
        (DEEP | SHARDED | {"kill_at": 13}, [-9, -9]),
        (DEEP | SHARDED | {"kill_in_save": 16, "resume": "last"}, [-9, 2]),
        (DEEP | SHARDED | {"resume": "last"}, [0, 0]),
    ],
    "two, one, two": [
        (DEEP | SHARDED | {"kill_at": 6}, [-9, -9]),
        (DEEP | WHOLE | {"kill_at": 13, "resume": "last"}, -9),
        (DEEP | SHARDED | {"resume": "last"}, [0, 0]),
    ],
    "recomputed": [(DEEP | {"dropout": 0.3, "trainer": {"bucket": 8, "steps": 8, "checkpoint_activations": True}}, 0)],
    "kept": [(DEEP | {"dropout": 0.3, "trainer": {"bucket": 8, "steps": 8}}, 0)],
    "tiny judged": [({"held_out": 1, "trainer": {"steps": 2, "batch": 8, "evaluate_every": 1}}, 0)],
    "tiny judged by two": [
        ({"held_out": 1, "world": 2, "trainer": {"steps": 2, "batch": 4, "evaluate_every": 1}}, [0, 0])
    ],
    "one told": [(DEEP | SHARDED | {"signal_at": 7, "rank": 1}, [0, 0])],
    "one lost": [(DEEP | SHARDED | {"kill_at": 13, "rank": 1}, [2, -9])],
    "disconnected": [(EVEN | {"world": 2, "fail_at": 3, "rank": 1, "fail_as": "NCCL error: no such device"}, [2, 2])],
    "launched": [
        (
            EVEN | {"by": "toy_training:launch", "launched": 2, "fail_at": 7, "rank": 1},
            1,
        )
    ],
    "command": [({"by": "toy_training:command:really", "words": WORDS, "world": 2}, [0, 0])],
    "full": [({"file_limit": 1500, "limit_at": 9}, 2)],
}


@pytest.fixture(scope="module")
def performed(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All runs, in processes of their own."""
    return Runs.of(tmp_path_factory, "resumed", {run: [job for job, _ in jobs] for run, jobs in JOBS.items()})


def test_every_process_ended_as_it_should(performed: Runs) -> None:
    performed.check({run: [status for _, status in jobs] for run, jobs in JOBS.items()})


def test_a_killed_run_goes_on_bit_for_bit(performed: Runs) -> None:
    assert performed.differing("mixed", "killed") == [], KILLS
    assert performed.records("mixed") == performed.records("killed"), KILLS
    assert not list((performed.root / "killed" / "checkpoints").glob(".*")), "what was cut short is cleaned away"


def test_two_processes_equal_one_with_twice_the_batch(performed: Runs) -> None:
    alone = performed.records("one")
    for other in ("accumulated", "two"):
        found = performed.records(other)
        assert [r.keys() for r in found] == [r.keys() for r in alone]
        for mine, theirs in zip(found, alone, strict=True):
            for name in mine.keys() - {"eval/limit"}:
                assert mine[name] == pytest.approx(theirs[name], abs=1e-6), (other, name, mine["step"])


def test_two_processes_go_on_bit_for_bit(performed: Runs) -> None:
    assert performed.differing("two", "two killed") == []
    assert performed.records("two") == performed.records("two killed")


def test_sharded_training_equals_one_process_and_goes_on_on_any_number(performed: Runs) -> None:
    alone = performed.records("deep")
    assert alone[-1]["eval/loss"] < 0.9 * next(r["eval/loss"] for r in alone if "eval/loss" in r)
    for other in ("sharded", "two, one, two"):
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


def test_a_split_smaller_than_the_processes_is_judged_as_by_one(performed: Runs) -> None:
    alone, two = performed.records("tiny judged"), performed.records("tiny judged by two")
    judged = [(a["eval/loss"], b["eval/loss"]) for a, b in zip(alone, two, strict=True) if "eval/loss" in a]
    assert len(judged) == 2
    for mine, theirs in judged:
        assert mine == pytest.approx(theirs, abs=1e-6)


def test_a_signal_to_one_process_stops_all_with_a_checkpoint(performed: Runs) -> None:
    steps = sorted(int(p.name) for p in (performed.root / "one told/checkpoints").iterdir() if p.name.isdigit())
    assert steps == [5, 8, 9], "asked every third step"


def test_a_killed_process_ends_the_other_in_one_line(performed: Runs) -> None:
    (line,) = performed.said("one lost", rank=0).splitlines()
    assert line.startswith("process 0 stops because process 1 failed: it is gone (killed, or its machine lost)")
    assert performed.checkpoint("one lost").resolve().name == "00000010"
    assert not list((performed.root / "one lost/checkpoints").glob(".*"))


def test_a_broken_connection_between_the_living_is_called_that(performed: Runs) -> None:
    text = "the connections broke, though all processes live (RuntimeError: NCCL error: no such device)"
    assert performed.said("disconnected", rank=1).startswith(f"process 1: {text}; go on with --resume last")
    assert performed.said("disconnected", rank=0).startswith(f"process 0 stops because process 1 failed: {text}")


def test_a_launch_ends_with_the_cause_of_the_process_that_failed(performed: Runs) -> None:
    said = performed.said("launched")
    assert "flowkit: process 1 failed: ValueError: a fault of this process" in said
    assert "process 0 stops because process 1 failed: ValueError: a fault of this process" in said
    assert performed.checkpoint("launched").resolve().name == "00000005"


def test_a_command_leaves_the_launch_before_it_ends(performed: Runs) -> None:
    for rank in range(2):
        said = performed.said("command", rank=rank)
        assert "the launch was left: True" in said
        assert "destroy_process_group" not in said
        assert ("sample it" in said) == (rank == 0), "one process speaks for all"
    assert performed.checkpoint("command").is_dir()


def test_recomputed_activations_change_nothing(performed: Runs) -> None:
    assert performed.differing("kept", "recomputed") == []
    assert performed.records("kept") == performed.records("recomputed")


def test_a_signal_writes_a_checkpoint_and_a_second_one_stops_at_once(performed: Runs) -> None:
    checkpoints = performed.root / "told" / "checkpoints"
    assert "SIGTERM: stopping after this step" in performed.said("told")
    assert (checkpoints / "00000007" / "complete.json").exists()
    assert not (checkpoints / "00000014").exists()
    assert performed.differing("one", "told") == []


def test_a_full_disk_is_one_clear_line_and_leaves_nothing_half_written(performed: Runs) -> None:
    (line,) = [line for line in performed.said("full").splitlines() if "disk" in line]
    for text in ("disk is full", "step 10", "step 8 is whole", "--resume last"):
        assert text in line
    folder = performed.root / "full"
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"00000005", "00000008", "best", "last"}
    assert (folder / "checkpoints" / "last").resolve().name == "00000008"
    for record in (folder / "metrics.jsonl").read_text().splitlines():
        json.loads(record)
