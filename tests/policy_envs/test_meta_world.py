"""Meta-World: the seed chooses the instance, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("metaworld")

from domains.policy.attempts import Script, attempt
from domains.policy.envs.make import make_env
from flowkit.errors import UserError


@pytest.fixture(scope="module")
def reach():
    env = make_env("FlowKit/MetaWorld-reach-v0")
    yield env
    env.close()


def test_the_seed_alone_chooses_the_goal(reach):
    first, info = reach.reset(seed=4)
    assert info == {"success": False}
    assert first.shape == (39,)
    for _ in range(7):
        reach.step(np.ones(4, np.float32))
    reach.reset(seed=5)
    np.testing.assert_array_equal(reach.reset(seed=4)[0], first)
    goals = np.stack([reach.reset(seed=seed)[0][-3:] for seed in range(8)])
    assert len(np.unique(goals.round(6), axis=0)) == 8
    assert np.abs(goals).min() > 0  # the goal is seen


def test_a_reset_without_a_seed_goes_on_in_the_same_way(reach):
    reach.reset(seed=1)
    second = reach.reset()[0]
    third = reach.reset()[0]
    reach.reset(seed=1)
    np.testing.assert_array_equal(reach.reset()[0], second)
    assert not np.array_equal(second, third)


def test_observations_lie_in_the_space(reach):
    observation, _ = reach.reset(seed=0)
    assert reach.observation_space.contains(observation)
    assert reach.observation_space.contains(reach.step(reach.action_space.sample())[0])


@pytest.mark.parametrize("task", ["reach", "drawer-close"])
def test_the_expert_succeeds_and_the_episode_ends_there(task):
    script = Script(f"FlowKit/MetaWorld-{task}-v0")
    env, expert = script.make()
    for index in range(2):
        episode = attempt(script, index, env, expert)
        assert episode.success
        assert episode.terminations[-1]
        assert len(episode.actions) < 150
    env.close()


def test_tasks_without_a_listed_id_work_and_misspelt_ones_get_the_nearest_name():
    env = make_env("FlowKit/MetaWorld-faucet-open-v0")
    assert env.unwrapped.task == "faucet-open"
    env.close()
    with pytest.raises(UserError, match="did you mean 'FlowKit/MetaWorld-soccer-v0'"):
        make_env("FlowKit/MetaWorld-socer-v0")
