"""The fork's rules, one by one, and its expert."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from flowkit.errors import UserError

gymnasium = pytest.importorskip("gymnasium")

from domains.policy.envs.experts import expert_for  # noqa: E402
from domains.policy.envs.fork import NOISE, SIDEWAYS, Fork, ForkBatch, expert_action, lanes  # noqa: E402
from domains.policy.envs.make import make_env  # noqa: E402


def drive(path, **options):
    """Follow side positions (one per step) in a fork that starts in the middle; returns the rows of ``Fork.step``."""
    fork = Fork(**options)
    fork.reset(seed=0)
    fork.batch.position[:] = 0.0
    rows, here = [], 0.0
    for target in path:
        rows.append(fork.step(np.array([(target - here) / 0.12])))
        here = target
        if rows[-1][2]:
            break
    return rows


def turned(at, side, steps=26):
    """Keep to the middle for ``at`` steps, then go to ``side`` by full side steps."""
    path, here = [0.0] * at, 0.0
    while len(path) < steps:
        here = float(np.clip(side, here - 0.12, here + 0.12))
        path.append(here)
    return path


def test_a_step_goes_forward_by_a_twentieth_and_sideways_by_up_to_0_12():
    fork = Fork()
    before, info = fork.reset(seed=3)
    assert before[0] == 0
    assert abs(before[1]) <= 0.05
    assert info == {"success": False}
    after, reward, terminated, truncated, _ = fork.step(np.array([0.5]))
    np.testing.assert_allclose(after - before, [0.05, 0.06], atol=1e-6)
    assert (reward, terminated, truncated) == (0, False, False)
    further, *_ = fork.step(np.array([-7.0]))  # clipped to -1
    np.testing.assert_allclose(further - after, [0.05, -0.12], atol=1e-6)


def test_starts_are_spread_evenly_over_a_tenth():
    starts = ForkBatch().reset(20_000, np.random.default_rng(0))
    assert starts.shape == (20_000, 2)
    assert np.abs(starts[:, 1]).max() <= 0.05
    assert starts[:, 1].std() == pytest.approx(0.1 / np.sqrt(12), rel=0.02)


def test_an_episode_has_26_steps():
    rows = drive(turned(8, 0.35))
    assert len(rows) == 26
    assert [row[2] for row in rows] == [False] * 25 + [True]
    assert rows[-1][0][0] == pytest.approx(1.3)


@pytest.mark.parametrize(("end", "success"), [(0.27, True), (0.44, True), (0.24, False), (0.46, False), (-0.35, True)])
def test_success_ends_within_a_tenth_of_a_lane(end, success):
    _, reward, _, _, info = drive(turned(8, end))[-1]
    assert info["success"] is success
    assert reward == success
    assert info.get("mode") == ((0 if end > 0 else 1) if success else None)


@pytest.mark.parametrize(("at", "steps"), [(13, 14), (14, 14), (17, 17), (18, 18), (19, 26)])
def test_the_obstacle_reaches_from_0_7_to_0_9_with_its_edges(at, steps):
    """Beside it (0.2 counts as free) until step ``at`` enters the middle; x is 0.05 a step."""
    beside = [0.0] * 12 + [0.12] + [0.201] * 13
    assert len(drive(beside)) == 26
    assert len(drive([*beside[: at - 1], *[0.1] * (27 - at)])) == steps


def test_at_its_edge_one_passes_and_just_inside_not():
    assert len(drive(turned(8, 0.2001))) == 26
    assert len(drive(turned(8, 0.1999))) == 14


def test_a_narrower_obstacle_lets_through():
    assert len(drive(turned(8, 0.1), obstacle=0.09)) == 26


@pytest.mark.parametrize("modes", [2, 4, 8])
def test_the_expert_always_succeeds_and_uses_every_lane(modes):
    rng = np.random.default_rng(1)
    batch = ForkBatch(modes=modes)
    observation = batch.reset(20_000, rng)
    chosen = rng.integers(modes, size=20_000)
    for _ in range(26):
        noise = NOISE / SIDEWAYS * rng.standard_normal(batch.position.shape)
        observation = batch.step(expert_action(observation, batch.lanes[chosen]) + noise)
    assert batch.success.all()
    np.testing.assert_array_equal(batch.lane, chosen)


def test_a_random_policy_rarely_succeeds():
    rng = np.random.default_rng(2)
    batch = ForkBatch()
    batch.reset(20_000, rng)
    for _ in range(26):
        batch.step(rng.uniform(-1, 1, (20_000, 1)))
    assert batch.success.mean() == pytest.approx(0.095, abs=0.02)
    assert (~batch.collided).mean() == pytest.approx(0.31, abs=0.02)


def test_the_mean_of_the_experts_runs_into_the_obstacle():
    batch = ForkBatch()
    observation = batch.reset(500, np.random.default_rng(3))
    for _ in range(26):
        observation = batch.step(sum(expert_action(observation, lane) for lane in batch.lanes) / 2)
    assert batch.collided.all()


def test_the_single_fork_is_the_batch_of_one():
    fork, batch = Fork(), ForkBatch()
    fork.reset(seed=5)
    batch.reset(1, np.random.default_rng(0))
    batch.position[:] = fork.batch.position
    rng = np.random.default_rng(6)
    for _ in range(13):
        action = rng.uniform(-1, 1, 1)
        np.testing.assert_array_equal(fork.step(action)[0], batch.step(action[None])[0])


def test_lanes_are_unit_vectors_that_differ():
    for modes in range(2, 9):
        directions = lanes(modes)
        np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
        apart = np.linalg.norm(directions[:, None] - directions, axis=2)[~np.eye(modes, dtype=bool)]
        assert 0.35 * apart.min() > 0.2  # two lanes of half width .1 do not overlap


def test_seeds_decide_and_the_environment_keeps_gymnasiums_rules():
    from gymnasium.utils.env_checker import check_env

    check_env(Fork(), skip_render_check=True)
    fork = Fork()
    first = fork.reset(seed=7)[0]
    fork.step(np.ones(1))
    np.testing.assert_array_equal(fork.reset(seed=7)[0], first)
    assert not np.array_equal(fork.reset(seed=8)[0], first)


@pytest.mark.parametrize("modes", [2, 5])
def test_pictures_show_where_the_agent_is(modes):
    env = make_env("FlowKit/Fork-v0", render="rgb_array", modes=modes)
    expert = expert_for("FlowKit/Fork-v0")
    observation, _ = env.reset(seed=0)
    expert.reset(env, np.random.default_rng(0))
    pictures = [env.render()]
    for _ in range(20):
        observation, *_ = env.step(expert.act(env, observation))
        pictures.append(env.render())
    assert pictures[0].shape == (256, 256, 3)
    assert pictures[0].dtype == np.uint8
    changed = [np.abs(a.astype(int) - b.astype(int)).sum() for a, b in itertools.pairwise(pictures)]
    assert min(changed) > 0
    plain = Fork()
    plain.reset(seed=0)
    assert plain.render() is None


@pytest.mark.parametrize("wrong", [{"modes": 1}, {"modes": 9}, {"obstacle": 0.5}])
def test_impossible_forks_are_refused(wrong):
    with pytest.raises(UserError, match=str(next(iter(wrong.values())))):
        make_env("FlowKit/Fork-v0", **wrong)
