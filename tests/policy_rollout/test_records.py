"""Episodes on the disk: nothing done is lost, and a rollout that was killed ends as if it had not been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rollout_worlds import WALK, assert_same, fresh_policy

from domains.policy.records import Decision, EpisodeRecord, RolloutLog, read_episodes
from domains.policy.rollout import rollout
from flowkit.errors import UserError

HERE = Path(__file__).parent
SCRIPT = """
import sys
sys.path.insert(0, {here!r})
from rollout_worlds import fresh_policy
from domains.policy.records import RolloutLog
from domains.policy.rollout import rollout
log = RolloutLog({folder!r}, {{"who": "policy"}})
rollout(fresh_policy(), "FlowKitTests/WalkSlow-v0", episodes=12, envs=3, log=log)
"""


def full_record() -> EpisodeRecord:
    decisions = (Decision(0, 2.0, 4.0, 0.01, 3, sigma=0.5, mode=1), Decision(8, 1.0, 2.0, 0.02, 1))
    return EpisodeRecord(100_000, True, 1.5, 1.0, 12, jerk=0.25, mode=1, decisions=decisions, failed="")


def test_a_record_survives_its_line():
    record = full_record()
    assert EpisodeRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_switches_count_changes_between_plans_that_tell_a_mode():
    modes = [0, 0, None, 1, 1, 0]
    plans = tuple(Decision(i, 1, 1, 0.0, 1, mode=mode) for i, mode in enumerate(modes))
    record = EpisodeRecord(0, True, 0.0, 0.0, 6, mode=1, decisions=plans)
    assert record.switches == 3
    assert EpisodeRecord(0, True, 0.0, 0.0, 6).switches == 0


def test_a_rollout_goes_on_where_it_stopped(tmp_path):
    policy = fresh_policy()
    whole = rollout(policy, WALK, episodes=9, envs=2, log=RolloutLog(tmp_path / "whole", {"seed": 0}))
    ran = []
    rollout(policy, WALK, episodes=4, envs=3, log=RolloutLog(tmp_path / "parts", {"seed": 0}))
    log = RolloutLog(tmp_path / "parts", {"seed": 0}, resume=True)
    parts = rollout(policy, WALK, episodes=9, envs=3, log=log, on_episode=ran.append)
    assert sorted(r.start for r in ran) == [100_004 + i for i in range(5)]
    assert_same(parts, whole)
    assert_same(read_episodes(log.path), read_episodes(tmp_path / "whole" / "episodes.jsonl"))


def test_each_episode_is_on_the_disk_when_it_ends(tmp_path):
    log = RolloutLog(tmp_path, {})
    seen = []
    rollout(
        fresh_policy(), WALK, episodes=5, envs=2, log=log,
        on_episode=lambda r: seen.append(len(read_episodes(log.path))),
    )  # fmt: skip
    assert seen == [1, 2, 3, 4, 5]


def test_episodes_of_a_breakdown_run_again(tmp_path):
    lost = EpisodeRecord(100_001, False, 0.0, 0.0, 2, failed="RuntimeError: no display")
    with (tmp_path / "episodes.jsonl").open("w") as file:
        file.write(json.dumps(lost.to_json()) + "\n")
    (tmp_path / "rollout.json").write_text("{}")
    log = RolloutLog(tmp_path, {}, resume=True)
    records = rollout(fresh_policy(), WALK, episodes=3, log=log)
    assert not any(r.failed for r in records)
    assert len(read_episodes(log.path)) == 3


def test_a_folder_with_episodes_is_not_written_over(tmp_path):
    RolloutLog(tmp_path, {"seed": 0}).add(full_record())
    with pytest.raises(UserError, match="--resume goes on"):
        RolloutLog(tmp_path, {"seed": 0})
    with pytest.raises(UserError, match="have seed 0, not 1"):
        RolloutLog(tmp_path, {"seed": 1}, resume=True)
    assert list(RolloutLog(tmp_path, {"seed": 0}, resume=True).records) == [100_000]
    (tmp_path / "rollout.json").unlink()
    with pytest.raises(UserError, match=r"without rollout\.json"):
        RolloutLog(tmp_path, {"seed": 0}, resume=True)


def test_a_line_that_was_cut_off_is_passed_over_and_a_damaged_one_is_not(tmp_path):
    line = json.dumps(full_record().to_json())
    path = tmp_path / "episodes.jsonl"
    path.write_text(f"{line}\n{line[:40]}")
    assert read_episodes(path) == [full_record()]
    path.write_text(f"{line[:40]}\n{line}\n")
    with pytest.raises(UserError, match="line 1 is no episode"):
        read_episodes(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_episodes(tmp_path / "nothing.jsonl")


def test_a_killed_rollout_goes_on_and_equals_the_undisturbed(tmp_path):
    folder = tmp_path / "killed"
    killed = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(here=str(HERE), folder=str(folder))],
        cwd=HERE.parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    path, patience = folder / "episodes.jsonl", time.monotonic() + 60
    while not path.is_file() or path.read_bytes().count(b"\n") < 3:
        assert killed.poll() is None
        assert time.monotonic() < patience
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    before = read_episodes(path)
    assert 3 <= len(before) < 12
    # The same world without its pauses, from here on.
    log = RolloutLog(folder, {"who": "policy"}, resume=True)
    after = rollout(fresh_policy(), WALK, episodes=12, envs=3, log=log)
    assert_same(after, rollout(fresh_policy(), WALK, episodes=12, envs=5))
    assert read_episodes(path) == after
    # The episodes of before were not run again: their times are those of before.
    later = {record.start: record for record in after}
    assert all(later[record.start] == record for record in before)
