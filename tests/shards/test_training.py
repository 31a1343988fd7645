"""A training on shards that are fetched is killed anywhere: nothing is lost, nothing comes twice, nothing is spoilt."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import toy_set
from fetched_training import ROOM
from forked import DRAWS, Runs

from flowkit.shards.places import PIPES
from flowkit.shards.reader import ShardSet
from flowkit.shards.tar import members_of

STEP = DRAWS.randrange(14, 24)
LAST = {"resume": "last"}
JOBS = {
    "whole": [({}, 0)],
    "killed": [
        ({"kill_at_fetch": 3}, -9),  # before there is a checkpoint
        (LAST | {"kill_at_fetch": 4}, -9),
        (LAST | {"kill_at": STEP}, -9),
        (LAST, 0),
    ],
    "one of two killed": [
        ({"world": 2, "trainer": {"batch": 2}, "kill_at_fetch": 8}, {2, -9}),
        (LAST | {"world": 2, "trainer": {"batch": 2}}, [0, 0]),
    ],
}


@pytest.fixture(scope="module")
def performed(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All runs, in processes of their own; those of a run share a cache."""
    pytest.importorskip("webdataset", reason="addresses are opened with webdataset")
    more = {"by": "fetched_training:perform", "from": str(written)}
    jobs = {
        run: [job | more | {"number": number, "cache": f"{run}-cache"} for number, (job, _) in enumerate(all_)]
        for run, all_ in JOBS.items()
    }
    return Runs.of(tmp_path_factory, "fetching", jobs)


def seen(performed: Runs, run: str) -> dict[int, set[int]]:
    """Step -> the samples that made it; where a process made it again after a kill, it was of the same."""
    found: dict[int, set[int]] = {}
    for file in performed.root.glob(f"{run}-seen-*"):
        mine: dict[int, set[int]] = {}
        for line in file.read_text().splitlines():
            step, numbers = json.loads(line)
            assert mine.setdefault(step, set(numbers)) == set(numbers)
            assert not mine[step] & found.get(step, set()), "two processes took the same"
        for step, numbers in mine.items():
            found[step] = found.get(step, set()) | numbers
    return found


def test_every_process_ended_as_it_should(performed: Runs) -> None:
    performed.check({run: [status for _, status in jobs] for run, jobs in JOBS.items()})
    killed = performed.statuses["one of two killed"][0].index(-9)
    said = performed.said("one of two killed")
    assert "Traceback" not in said, said
    # Where the one that keeps the launch's store was killed, torch's store may warn of its broken connection.
    (line,) = [line for line in said.splitlines() if line.startswith("process ")] or [said]
    assert line.startswith(f"process {1 - killed} stops because process {killed} failed: it ")
    assert "is gone (killed, or its machine lost)" in line


def test_killed_while_it_fetches_and_while_it_learns_it_goes_on_bit_for_bit(performed: Runs) -> None:
    assert performed.differing("whole", "killed") == []
    assert performed.records("whole") == performed.records("killed")
    assert len(performed.records("whole")) == 25


def test_two_processes_of_which_one_was_killed_learn_what_one_does(performed: Runs) -> None:
    for mine, theirs in zip(performed.records("one of two killed"), performed.records("whole"), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("run", JOBS)
def test_every_sample_comes_once_an_epoch_whatever_happens(performed: Runs, run: str) -> None:
    steps = seen(performed, run)
    assert steps == seen(performed, "whole")
    assert sorted(steps) == list(range(25))
    for epoch in range(2):
        numbers = [n for step in range(10 * epoch, 10 * epoch + 10) for n in steps[step]]
        assert sorted(numbers) == list(range(toy_set.COUNT))


@pytest.mark.parametrize("run", JOBS)
def test_the_cache_is_whole_and_within_its_limit(
    performed: Runs, run: str, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = performed.root / f"{run}-cache" / "shards"
    kept = list(cache.glob("*/*.tar"))
    assert 0 < sum(path.stat().st_size for path in kept) <= ROOM
    assert all(path.read_bytes() == (written / path.name).read_bytes() for path in kept)
    monkeypatch.setenv(PIPES, "1")
    shards = ShardSet([f"pipe:cat {written}/{{}}"], cache=cache, limit=ROOM, window=1)
    for item, data in enumerate(shards.read(np.arange(toy_set.COUNT))):
        assert bytes(members_of(data)["bin"]) == toy_set.content(item)
    assert shards.index.content["bytes"] > 1.4 * ROOM
    assert not list(cache.glob("*/.*.writing")), "what a kill left half-written is gone"
