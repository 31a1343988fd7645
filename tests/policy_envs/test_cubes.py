"""OGBench's cubes, where the package is installed."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("ogbench")

from domains.policy.attempts import Script, attempt


@pytest.mark.parametrize(("env_id", "size"), [("FlowKit/CubeSingle-v0", 34), ("FlowKit/CubeDouble-v0", 44)])
def test_the_expert_brings_a_cube_to_its_mark_and_the_seed_decides(env_id, size):
    script = Script(env_id)
    env, expert = script.make()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = attempt(script, 0, env, expert)
    assert first.success
    assert first.observations.shape == (len(first.actions) + 1, size)
    attempt(script, 1, env, expert)
    again = attempt(script, 0, env, expert)
    np.testing.assert_array_equal(again.observations, first.observations)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert env.observation_space.contains(first.observations[0])
    env.close()
