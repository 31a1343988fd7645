"""PushT: observations as the human recordings have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gym_pusht")

from domains.policy.envs.make import make_env
from domains.policy.envs.push_t import POINTS, flat_observation, points_of

#: Not in the repository.
HUMAN = Path(__file__).parents[3] / "shared" / "data" / "pusht" / "pusht_human.npz"


@pytest.fixture
def env():
    env = make_env("FlowKit/PushT-v0")
    yield env
    env.close()


def test_points_turn_and_move_with_the_block():
    at_rest, turned = points_of(np.zeros(3)), points_of(np.array([10.0, 20.0, np.pi / 2]))
    np.testing.assert_allclose(at_rest, POINTS)
    np.testing.assert_allclose(turned, np.stack([10 - POINTS[:, 1], 20 + POINTS[:, 0]], axis=1), atol=1e-9)


def test_a_state_is_restored_as_it_was_passed(env):
    state = np.array([222.0, 97.0, 223.0, 381.6, 3.0])
    observation, info = env.reset(seed=0, options={"state": state})
    assert info == {"success": False, "coverage": 0.0, "max_reward": 0.0}
    np.testing.assert_allclose(observation[:18].reshape(9, 2), points_of(state[2:]), atol=1e-3)
    np.testing.assert_allclose(observation[18:], state[:2], atol=1e-3)


def test_on_its_mark_the_block_counts_as_done(env):
    env.reset(seed=0, options={"state": [400.0, 100.0, 256.0, 256.0, np.pi / 4]})
    _, reward, terminated, _, info = env.step(np.array([400.0, 100.0]))
    assert terminated
    assert reward == 1.0
    assert info["success"] is True
    assert info["coverage"] > 0.95


def test_the_best_reward_is_kept_until_the_next_start(env):
    env.reset(seed=0, options={"state": [300.0, 170.0, 256.0, 230.0, np.pi / 4]})
    rewards, bests = [], []
    for step in range(25):
        _, reward, _, _, info = env.step(np.array([240.0 - 4 * step, 190.0 + 12 * step]))
        rewards.append(reward)
        bests.append(info["max_reward"])
    assert rewards[-1] < max(rewards)
    np.testing.assert_allclose(bests, np.maximum.accumulate(rewards))
    assert env.reset(seed=1)[1]["max_reward"] == 0


def test_seeds_decide_the_start(env):
    first = env.reset(seed=3)[0]
    assert env.observation_space.contains(first)
    np.testing.assert_array_equal(env.reset(seed=3)[0], first)
    assert not np.array_equal(env.reset(seed=4)[0], first)


@pytest.mark.skipif(not HUMAN.is_file(), reason="the recordings are not beside the repository")
def test_replayed_human_actions_give_the_recorded_observations(env):
    with np.load(HUMAN) as file:
        end = int(file["episode_ends"][0])
        state, points, actions = file["state"][:end], file["keypoint"][:end], file["action"][:end]
    recorded = flat_observation(points, state[:, :2])
    observation, _ = env.reset(seed=0, options={"state": state[0]})
    np.testing.assert_allclose(observation[:18], recorded[0, :18], atol=0.1)
    for step in range(end - 1):
        observation, *_ = env.step(actions[step])
        np.testing.assert_allclose(observation, recorded[step + 1], atol=0.1)
