"""Point mazes: they end, the expert reaches the goal, and the ring is walked both ways."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("gymnasium_robotics")

from domains.policy.attempts import Script, attempt
from domains.policy.envs.make import make_env
from domains.policy.envs.point_maze import RING, distances, make_point_maze, plan
from flowkit.errors import UserError


def test_distances_count_steps_round_walls():
    found = distances(plan(RING), (3, 5))
    assert found[3, 5] == 0
    assert found[3, 1] == 8  # two up, four along, two down
    assert found[1, 3] == found[5, 3] == 4
    assert found[0, 0] == found[3, 3] == -1


def test_a_part_without_a_way_has_no_distance():
    assert distances([[1] * 5, [1, 0, 1, 0, 1], [1] * 5], (1, 1)).tolist()[1] == [-1, 0, -1, -1, -1]


@pytest.mark.parametrize("env_id", ["FlowKit/PointMazeUMaze-v0", "PointMaze_UMaze-v3"])
def test_the_expert_solves_the_u_and_the_episode_ends_there(env_id):
    script = Script(env_id)
    env, expert = script.make()
    for index in range(4):
        episode = attempt(script, index, env, expert)
        assert episode.success
        assert episode.terminations.tolist() == [False] * (len(episode.actions) - 1) + [True]
        assert np.abs(episode.actions).max() <= 1
        end = episode.observations
        assert np.linalg.norm(end["achieved_goal"][-1] - end["desired_goal"][-1]) <= 0.45
    env.close()


def test_the_ring_is_walked_both_ways_and_tells_which():
    script = Script("FlowKit/PointMazeRing-v0")
    env, expert = script.make()
    seen = set()
    for index in range(12):
        _, info = env.reset(seed=script.start(index))
        assert "mode" not in info
        observation, _ = env.reset(seed=script.start(index))
        expert.reset(env, np.random.default_rng(index))
        heights, ended = [], False
        while not ended:
            observation, _, terminated, truncated, info = env.step(expert.act(env, observation))
            heights.append(observation["achieved_goal"][1])
            ended = terminated or truncated
        assert info["success"]
        assert info["mode"] == (0 if max(heights) > 1 else 1)  # y points up: above is row 1
        seen.add(info["mode"])
    assert seen == {0, 1}
    env.close()


def test_a_ball_that_stands_still_runs_out_of_time():
    env = make_env("FlowKit/PointMazeUMaze-v0", max_episode_steps=5)
    env.reset(seed=0)
    ends = [env.step(np.zeros(2))[2:4] for _ in range(5)]
    assert ends == [(False, False)] * 4 + [(False, True)]
    env.close()


def test_an_unknown_maze_gets_the_nearest_name():
    with pytest.raises(UserError, match="did you mean 'medium'"):
        make_point_maze(maze="medum")
