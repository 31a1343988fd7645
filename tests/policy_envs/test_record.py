"""Recording: a function of seed and index, however it is made, interrupted or shared out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from flowkit.cli.main import main
from flowkit.errors import UserError

pytest.importorskip("minari")

import minari

from domains.policy import record as record_module
from domains.policy.attempts import STARTS, Script, attempts
from domains.policy.envs.experts import Expert
from domains.policy.record import SHARD, default_dataset, record

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _places(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def contents(dataset):
    return [
        (episode.observations, episode.actions, episode.rewards, episode.terminations, episode.truncations)
        for episode in minari.load_dataset(dataset)
    ]


def check_equal(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


class Clumsy(Expert):
    """Takes the right way in half of the forks, else none."""

    def begin(self, env):
        self.fine = self.rng.random() < 0.5

    def choose(self, env, observation):
        from domains.policy.envs.fork import expert_action

        return expert_action(observation, env.unwrapped.batch.lanes[0]) if self.fine else np.zeros(1)


class Lost(Expert):
    def choose(self, env, observation):
        return np.zeros(1)


def test_a_recording_is_a_data_set_that_makes_its_environment_again():
    result = record("FlowKit/Fork-v0", "fork/a-v0", episodes=5)
    assert (result.episodes, result.steps, result.attempts, result.failures) == (5, 130, 5, 0)
    dataset = minari.load_dataset("fork/a-v0")
    assert dataset.total_episodes == 5
    assert dataset[0].observations.shape == (27, 2)
    assert [bool(episode.terminations[-1]) for episode in dataset] == [True] * 5
    env = dataset.recover_environment()
    assert env.spec.id == "FlowKit/Fork-v0"
    seed = dataset.storage.get_episode_metadata([3]).__iter__().__next__()["seed"]
    np.testing.assert_array_equal(env.reset(seed=int(seed))[0], dataset[3].observations[0])
    again = [env.step(action)[0] for action in dataset[3].actions]
    np.testing.assert_array_equal(again, dataset[3].observations[1:])


def test_starts_stay_below_those_of_evaluation_and_do_not_repeat():
    for seed in (0, 1, 9, 12345):
        starts = [Script("FlowKit/Fork-v0", seed=seed).start(index) for index in range(3000)]
        assert len(set(starts)) == 3000
        assert 0 <= min(starts) <= max(starts) < STARTS
    assert Script("x", seed=0).start(0) != Script("x", seed=1).start(0)


def test_the_number_of_workers_changes_nothing():
    record("FlowKit/Fork-v0", "fork/one-v0", episodes=9)
    record("FlowKit/Fork-v0", "fork/two-v0", episodes=9, workers=2)
    check_equal(contents("fork/one-v0"), contents("fork/two-v0"))


def test_another_seed_gives_other_episodes():
    record("FlowKit/Fork-v0", "fork/one-v0", episodes=3)
    record("FlowKit/Fork-v0", "fork/one-v0", episodes=3, seed=1, append=True)
    episodes = contents("fork/one-v0")
    assert len(episodes) == 6
    assert not np.array_equal(episodes[0][0], episodes[3][0])


def test_failures_are_left_out_counted_and_replaced():
    result = record("FlowKit/Fork-v0", "fork/a-v0", episodes=12, expert=Clumsy)
    assert result.episodes == 12
    assert result.failures == result.attempts - 12
    assert 2 <= result.failures <= 40
    assert all(rewards[-1] == 1 for _, _, rewards, _, _ in contents("fork/a-v0"))
    assert (
        f"{result.failures} failed" in json.loads((result.folder / "data" / "metadata.json").read_text())["description"]
    )
    kept = record("FlowKit/Fork-v0", "fork/b-v0", episodes=12, expert=Clumsy, only_successes=False)
    assert (kept.episodes, kept.attempts) == (12, 12)
    assert kept.failures == sum(rewards[-1] == 0 for _, _, rewards, _, _ in contents("fork/b-v0")) > 0


def test_an_expert_that_never_succeeds_is_given_up():
    with pytest.raises(UserError, match=r"succeeded in 0 of 20 attempts, 3 .*--no-only-successes"):
        record("FlowKit/Fork-v0", "fork/a-v0", episodes=3, expert=Lost)
    assert not (Path(os.environ["MINARI_DATASETS_PATH"]) / "fork").exists()


def test_a_killed_recording_goes_on_and_ends_as_an_undisturbed_one(monkeypatch, tmp_path):
    episodes = 7 * SHARD + 3
    program = (
        "import time; from domains.policy import attempts as a; real = a.attempt\n"
        "def slow(*given): time.sleep(0.01); return real(*given)\n"
        "a.attempt = slow\n"
        f"from domains.policy.record import record; record('FlowKit/Fork-v0', 'fork/killed-v0', episodes={episodes})"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.DEVNULL)
    cache, limit = tmp_path / "cache" / "policy", time.monotonic() + 60
    while len(list(cache.glob("recording-*/attempts-*.npz"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "minari").exists()

    begun = []

    def watched(script, indices, **options):
        begun.append(indices[0])
        return attempts(script, indices, **options)

    monkeypatch.setattr(record_module, "attempts", watched)
    result = record("FlowKit/Fork-v0", "fork/killed-v0", episodes=episodes)
    assert begun[0] >= 2 * SHARD
    assert result.episodes == result.attempts == episodes
    assert not list(cache.glob("recording-*"))
    record("FlowKit/Fork-v0", "fork/whole-v0", episodes=episodes)
    assert begun[1] == 0
    check_equal(contents("fork/killed-v0"), contents("fork/whole-v0"))


def test_nested_observations_come_back_from_the_store_as_they_were():
    tree = {"a": np.arange(6.0).reshape(3, 2), "b": {"c": np.ones((3, 1)), "d": (np.zeros(3), np.full(3, 7.0))}}
    back = record_module._nested(record_module._flat(tree, "0/observations"), "0/observations")
    np.testing.assert_equal(back, tree)


def test_an_existing_data_set_is_refused_before_any_work():
    record("FlowKit/Fork-v0", "fork/a-v0", episodes=1)
    with pytest.raises(UserError, match=r"'fork/a-v0' is already in .*--append"):
        record("FlowKit/Fork-v0", "fork/a-v0", episodes=10**9)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"episodes": 0}, "episodes=0"), ({"seed": -1}, "got -1"), ({"workers": 0}, "at least 1, got 0")],
)
def test_impossible_numbers_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        record("FlowKit/Fork-v0", "fork/a-v0", **{"episodes": 2, **wrong})


def test_a_malformed_name_is_refused_before_any_work():
    with pytest.raises(UserError, match="'fork' is no Minari id"):
        record("FlowKit/Fork-v0", "fork", episodes=10**5)


def test_names_of_data_sets():
    assert default_dataset("FlowKit/Fork-v0") == "fork/expert-v0"
    assert default_dataset("PointMaze_UMaze-v3") == "pointmaze-umaze/expert-v0"


def test_the_verb_records_and_prints_what_it_wrote(capsys, tmp_path):
    command = ["data", "record", "FlowKit/Fork-v0", "--episodes", "4", "--seed", "2", "--noise", "0.1", "--json"]
    assert main([*command, "--root", str(tmp_path / "there")]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["dataset"], row["episodes"], row["steps"]) == ("fork/expert-v0", 4, 104)
    assert Path(row["folder"]) == tmp_path / "there" / "fork" / "expert-v0"
    assert main([*command, "--root", str(tmp_path / "there")]) == 2
    assert "already" in capsys.readouterr().err


def test_a_missing_expert_is_one_line(capsys):
    assert main(["data", "record", "CartPole-v1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_same_seed_is_not_appended(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    record("FlowKit/Fork-v0", "fork/one-v0", episodes=3, seed=2)
    with pytest.raises(UserError, match="holds episodes from the starts of seed 2: give another --seed"):
        record("FlowKit/Fork-v0", "fork/one-v0", episodes=1, seed=2, append=True)


def test_an_environment_that_breaks_down_is_one_line(tmp_path, monkeypatch):
    from domains.policy.envs.fork import Fork

    def broken(self, action):
        raise RuntimeError("the simulation is unstable")

    monkeypatch.setenv("FLOWKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(Fork, "step", broken)
    with pytest.raises(UserError, match=r"Fork-v0 broke down in attempt 0 \(start 0\): RuntimeError: the simulation"):
        record("FlowKit/Fork-v0", "fork/broken-v0", episodes=2, root=str(tmp_path / "sets"))
    assert not (tmp_path / "sets" / "fork").exists()
