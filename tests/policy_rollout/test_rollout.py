"""Rollouts: each episode is a function of its start and the seed, and ends with the step that ends it."""

from __future__ import annotations

import numpy as np
import pytest
from rollout_worlds import FORK, WALK, Walk, assert_same, fresh_policy

from domains.policy.actors import Actor, ExpertActor, FlowActor, RandomActor
from domains.policy.envs.make import make_env
from domains.policy.evaluation import evaluate_rollouts, mode_names
from domains.policy.records import Decision, RolloutLog, read_episodes
from domains.policy.rollout import BREAKDOWNS, EVALUATION_STARTS, jerk, rollout
from flowkit.errors import UserError
from flowkit.random import mix_seed


def outcomes(records):
    return [record.outcome() for record in records]


@pytest.mark.parametrize(
    ("env_id", "who"),
    [(FORK, "flow"), (FORK, "random"), (FORK, "expert"), (WALK, "flow"), (WALK, "history"), (WALK, "random")],
)
def test_the_number_of_environments_changes_nothing(env_id, who):
    actors = {
        "flow": fresh_policy,
        "history": lambda: fresh_policy(history=3),
        "random": RandomActor,
        "expert": lambda: ExpertActor(env_id),
    }
    alone, three, eight = (rollout(actors[who](), env_id, episodes=12, envs=n) for n in (1, 3, 8))
    assert_same(alone, three)
    assert_same(alone, eight)


def test_episodes_are_those_of_a_plain_loop():
    policy, env = fresh_policy(history=2), make_env(WALK)
    for record in rollout(policy, WALK, episodes=10, seed=3):
        observation, _ = env.reset(seed=record.start)
        policy.reset(seed=mix_seed(3, record.start))
        rewards, actions, ended, success = [], [], False, False
        while not ended:
            actions.append(policy(observation))
            observation, reward, terminated, truncated, info = env.step(actions[-1])
            rewards.append(float(reward))
            success = success or info["success"]
            ended = terminated or truncated
        assert record.length == len(rewards)
        assert record.reward == pytest.approx(sum(rewards), abs=1e-4)
        assert record.max_reward == pytest.approx(max(rewards), abs=1e-4)
        assert record.success == success
        assert record.jerk == pytest.approx(jerk(actions), abs=1e-4)


def test_starts_and_seeds():
    records = rollout(RandomActor(), WALK, episodes=5)
    assert [r.start for r in records] == [100_000, 100_001, 100_002, 100_003, 100_004]
    assert EVALUATION_STARTS == 100_000
    assert outcomes(rollout(RandomActor(), WALK, starts=[100_003])) == outcomes(records[3:4])
    assert outcomes(rollout(RandomActor(), WALK, episodes=1, first_start=7))[0][0] == 7
    policy = fresh_policy()
    assert outcomes(rollout(policy, WALK, episodes=5)) == outcomes(rollout(policy, WALK, episodes=5))
    assert outcomes(rollout(policy, WALK, episodes=5)) != outcomes(rollout(policy, WALK, episodes=5, seed=1))


def test_plans_are_counted_once_and_only_where_actions_ran_out():
    actor = FlowActor(fresh_policy(steps=3))
    records = rollout(actor, WALK, episodes=16, envs=8)
    for record in records:
        assert [d.step for d in record.decisions] == list(range(0, record.length, 8))
        assert {(d.nfe, d.network_calls) for d in record.decisions} == {(3, 3)}
        assert all(d.seconds > 0 and 1 <= d.batch <= 8 for d in record.decisions)
    # Episodes of different lengths: rows come to need a plan at different times.
    assert {d.batch for r in records for d in r.decisions} - {8}
    alone = actor.seconds_alone()
    assert len(alone) == min(32, len(actor.kept))
    assert min(alone) > 0


def test_success_ends_an_episode_that_would_go_on():
    records = rollout(RandomActor(), "FlowKitTests/WalkEndless-v0", episodes=4, step_limit=400)
    ended = [r for r in records if r.success]
    assert ended
    assert all(r.max_reward > 1 for r in ended)
    assert all(r.length == 400 for r in records if not r.success)


def test_a_breakdown_is_one_failed_episode_and_the_others_go_on(tmp_path):
    before = Walk.made
    log = RolloutLog(tmp_path, {})
    records = rollout(RandomActor(), "FlowKitTests/WalkBreaks-v0", episodes=24, envs=4, log=log, seed=1)
    failed = [r for r in records if r.failed]
    assert 0 < len(failed) < 24
    assert {r.failed for r in failed} == {"RuntimeError: the walk fell apart"}
    assert all((r.success, r.length) == (False, 2) for r in failed)
    assert all(r.length > 3 or r.success for r in records if not r.failed)
    assert Walk.made - before == 4 + len(failed)
    assert outcomes(read_episodes(log.path)) == outcomes(records)
    for n in (1, 8):
        assert outcomes(rollout(RandomActor(), "FlowKitTests/WalkBreaks-v0", episodes=24, envs=n, seed=1)) == outcomes(
            records
        )


@pytest.mark.parametrize("env_id", ["FlowKitTests/WalkBroken-v0", "FlowKitTests/WalkUnmade-v0"])
def test_an_environment_that_always_breaks_stops_the_rollout(tmp_path, env_id):
    log = RolloutLog(tmp_path, {})
    with pytest.raises(UserError, match=r"in 3 episodes in a row.*start 10000") as error:
        rollout(RandomActor(), env_id, episodes=24, envs=2, log=log)
    assert "\n" not in str(error.value)
    assert "--resume" in str(error.value)
    assert len(read_episodes(log.path)) == BREAKDOWNS


def test_an_action_that_is_not_finite_stops_with_its_place(tmp_path):
    log = RolloutLog(tmp_path, {})
    with pytest.raises(UserError, match=r"not finite \(start 100000, step 0\): \[nan\]"):
        rollout(fresh_policy(nan=True), WALK, episodes=3, log=log)
    assert read_episodes(log.path) == []


def test_an_observation_that_is_not_finite_is_the_environments_fault(tmp_path):
    policy = fresh_policy()
    with pytest.raises(UserError, match=r"in 3 episodes in a row.*observation is not finite"):
        rollout(policy, "FlowKitTests/WalkSick-v0", episodes=8, envs=1)


def test_an_environment_of_other_spaces_is_refused():
    with pytest.raises(UserError, match=r"does not fit Pendulum-v1: observation 'vector' has 3 entries, 2 are"):
        rollout(fresh_policy(), "Pendulum-v1", episodes=1)
    with pytest.raises(UserError, match=r"does not fit FlowKit/Fork-v0: its actions have 2 entries, .* 1$"):
        rollout(fresh_policy(actions=2), FORK, episodes=1)
    with pytest.raises(UserError, match="did you mean 'FlowKit/Fork-v0'"):
        rollout(RandomActor(), "FlowKit/Frok-v0", episodes=1)
    with pytest.raises(UserError, match="an episode and an environment at least"):
        rollout(RandomActor(), WALK, episodes=0)


def test_expert_and_chance_bound_the_fork():
    assert all(r.success for r in rollout(ExpertActor(FORK), FORK, episodes=40))
    assert np.mean([r.success for r in rollout(RandomActor(), FORK, episodes=200)]) < 0.25


def test_jerk_by_hand():
    actions = [np.array(a) for a in ([0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 2.0])]
    # Second differences (-1, 0) and (0, 2).
    assert jerk(actions) == pytest.approx(1.5)
    assert jerk(actions[:2]) is None


def test_an_actor_of_your_own():
    class Right(Actor):
        name = "right"

        def open(self, n, env):
            self.n = n

        def reset(self, row, env, seed):
            pass

        def act(self, envs, observations, active):
            plans = {int(row): Decision(0, 1, 1, 0.0, int(active.sum())) for row in np.flatnonzero(active)}
            return np.ones((self.n, 1)), plans

    records = rollout(Right(), WALK, episodes=10, envs=3)
    assert all(r.success for r in records)
    assert all(len(r.decisions) == r.length for r in records)


def test_modes_are_those_of_the_environment_and_nothing_else():
    assert mode_names("FlowKit/Fork-v0") == ("left", "right")
    assert len(mode_names("FlowKit/Fork8-v0")) == 8
    assert len(mode_names("FlowKit/PointMazeRing-v0")) == 2
    assert mode_names("FlowKit/PointMazeUMaze-v0") == mode_names("Pendulum-v1") == ()
    found = evaluate_rollouts(ExpertActor("FlowKit/Fork4-v0"), "FlowKit/Fork4-v0", episodes=40)
    assert found["mode_coverage"] == 1.0


def test_what_another_environment_calls_its_mode_does_no_harm(monkeypatch):
    step = Walk.step

    def named(self, action):
        *rest, info = step(self, action)
        return *rest, {**info, "mode": "training"}

    monkeypatch.setattr(Walk, "step", named)
    (record,) = rollout(RandomActor(), WALK, episodes=1)
    assert (record.mode, record.failed) == (None, "")


def test_an_observation_of_another_shape_is_one_line(tmp_path, monkeypatch):
    step = Walk.step

    def longer(self, action):
        seen, *rest = step(self, action)
        return np.concatenate([seen, seen]), *rest

    monkeypatch.setattr(Walk, "step", longer)
    with pytest.raises(UserError, match="not of its own space"):
        rollout(fresh_policy(), WALK, episodes=2)
