"""Demonstrations of scripted experts: the same arguments, the same arrays."""

from __future__ import annotations

import numpy as np
import pytest

from domains.policy.data.scripted import ScriptedDemonstrations
from flowkit.errors import UserError

pytest.importorskip("gymnasium")


def recorded(tmp_path, **options):
    source = ScriptedDemonstrations("FlowKit/Fork-v0", cache=str(tmp_path), **{"episodes": 10, **options})
    source.prepare()
    return source


def test_the_arguments_decide_the_episodes(tmp_path):
    first, second = recorded(tmp_path / "a"), recorded(tmp_path / "b")
    np.testing.assert_array_equal(first.recorded.actions, second.recorded.actions)
    np.testing.assert_array_equal(first.recorded.observations["state"], second.recorded.observations["state"])
    np.testing.assert_array_equal(first.recorded.seeds, second.recorded.seeds)
    other = recorded(tmp_path / "a", recording_seed=1)
    assert other.folder != first.folder
    assert not np.array_equal(other.recorded.actions, first.recorded.actions)


def test_a_longer_recording_begins_with_the_shorter(tmp_path):
    short, long = recorded(tmp_path, episodes=4), recorded(tmp_path, episodes=8)
    np.testing.assert_array_equal(long.recorded.actions[: 4 * 26], short.recorded.actions)


def test_it_is_recorded_once(tmp_path, monkeypatch):
    first = recorded(tmp_path)
    monkeypatch.setattr(ScriptedDemonstrations, "convert", None)
    again = recorded(tmp_path)
    np.testing.assert_array_equal(again.recorded.actions, first.recorded.actions)


def test_what_is_written(tmp_path):
    source = recorded(tmp_path, validation=0.2)
    statistics = source.statistics()
    assert statistics["environment"] == "FlowKit/Fork-v0"
    assert (statistics["episodes"], statistics["steps"], statistics["success"]) == (10, 260, 1.0)
    assert (statistics["action_low"], statistics["action_high"]) == ([-1.0], [1.0])
    assert statistics["splits"]["validation"]["episodes"] == 2
    state = source.recorded.observations["state"]
    np.testing.assert_allclose(state[:26, 0], 0.05 * np.arange(26), atol=1e-6)
    # Row i is what the agent saw when it took action i.
    np.testing.assert_allclose(np.diff(state[:26, 1]), 0.12 * source.recorded.actions[:25, 0], atol=1e-6)
    assert source.recorded.seeds.max() < 100_000


def test_noise_shows(tmp_path):
    quiet, loud = recorded(tmp_path, noise=0.0), recorded(tmp_path, noise=0.3)
    assert loud.recorded.actions[::26].std() > 2 * quiet.recorded.actions[::26].std()


def test_keys_choose_what_a_maze_shows(tmp_path):
    pytest.importorskip("gymnasium_robotics")
    source = ScriptedDemonstrations(
        "FlowKit/PointMazeUMaze-v0", episodes=2, keys=["observation", "desired_goal"], cache=str(tmp_path)
    )
    source.prepare()
    assert source.recorded.layout.state == (("desired_goal", 2), ("observation", 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"environment": "FlowKit/Frok-v0"}, "did you mean 'FlowKit/Fork-v0'"),
        ({"environment": "CartPole-v1"}, "only boxes|no scripted expert"),
        ({"environment": "FlowKit/Fork-v0", "episodes": 0}, "at least one episode, got 0"),
        ({"environment": "FlowKit/Fork-v0", "keys": ["nothing"]}, "nothing"),
    ],
)
def test_mistakes_are_told(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        ScriptedDemonstrations(cache=str(tmp_path), **options).prepare()
    assert not list(tmp_path.rglob("*.npy"))
