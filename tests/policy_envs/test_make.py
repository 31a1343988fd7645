"""Making environments by id: success for all, and one line for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from flowkit.errors import UserError

gymnasium = pytest.importorskip("gymnasium")

from domains.policy.envs import ENVIRONMENTS, register  # noqa: E402
from domains.policy.envs import make as make_module  # noqa: E402
from domains.policy.envs.experts import Expert, expert_for  # noqa: E402
from domains.policy.envs.make import ReportSuccess, make_env, spaces_of  # noqa: E402


class Plain(gymnasium.Env):
    """Ends at the third step; says what it is told to."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, reward=1.0, key=None, value=False):
        self.reward, self.info, self.count = reward, {} if key is None else {key: value}, 0

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.count += 1
        return np.zeros(1, np.float32), self.reward, self.count == 3, False, dict(self.info)

    def render(self):
        raise RuntimeError("no\nscreen")


def successes(env):
    env = ReportSuccess(env)
    infos = [env.reset()[1], *(env.step(np.zeros(1))[4] for _ in range(3))]
    return [info["success"] for info in infos]


def test_success_is_what_the_environment_says_else_an_end_with_a_reward():
    assert successes(Plain()) == [False, False, False, True]
    assert successes(Plain(reward=0.0)) == [False, False, False, False]
    assert successes(Plain(key="is_success", value=np.bool_(True))) == [False, True, True, True]
    assert successes(Plain(key="success", value=0.0)) == [False, False, False, False]


def test_registering_twice_changes_nothing():
    register()
    register()
    for env_id in ENVIRONMENTS:
        json.loads(gymnasium.spec(env_id).to_json())  # data sets keep the specification


def test_an_unknown_id_gets_its_nearest_name():
    with pytest.raises(UserError, match="did you mean 'FlowKit/Fork-v0'"):
        make_env("FlowKit/Frok-v0")
    with pytest.raises(UserError, match="did you mean 'CartPole-v1'"):
        make_env("CartPol-v1")
    with pytest.raises(UserError, match="no module 'nothing_here'"):
        make_env("nothing_here:Fork-v0")


def test_a_missing_package_names_its_extra(monkeypatch):
    find = make_module.importlib.util.find_spec
    monkeypatch.setattr(
        make_module.importlib.util, "find_spec", lambda name: None if name == "metaworld" else find(name)
    )
    with pytest.raises(UserError, match=r"needs metaworld, .*pip install 'flowkit-fm\[envs\]'"):
        make_env("FlowKit/MetaWorld-reach-v0")


def test_a_wrong_option_is_one_line():
    with pytest.raises(UserError, match=r"cannot make FlowKit/Fork-v0: TypeError: .*wings") as caught:
        make_env("FlowKit/Fork-v0", wings=2)
    assert "\n" not in str(caught.value)


def test_foreign_ids_work():
    env = make_env("CartPole-v1")
    assert env.reset(seed=0)[1] == {"success": False}
    env.close()


def test_a_picture_that_cannot_be_drawn_is_one_line():
    with pytest.raises(UserError, match=r"cannot draw Plain: RuntimeError: no screen .*without pictures"):
        make_module.ReadablePictures(Plain()).render()


def test_the_graphics_backend_is_chosen_only_where_nobody_did(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(make_module.sys, "platform", "linux")
    monkeypatch.setenv("DISPLAY", ":0")
    make_module._choose_backend()
    assert "MUJOCO_GL" not in make_module.os.environ
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    make_module._choose_backend()
    assert make_module.os.environ["MUJOCO_GL"] == "osmesa"


def test_spaces_of_an_id():
    observations, actions = spaces_of("FlowKit/Fork4-v0")
    assert (observations.shape, actions.shape) == ((3,), (2,))


def test_an_environment_without_an_expert_lists_those_with_one():
    with pytest.raises(UserError, match=r"FlowKit/PushT-v0 has no scripted expert; .*FlowKit/Fork-v0"):
        expert_for("FlowKit/PushT-v0")
    with pytest.raises(UserError, match="0 or more, got -1"):
        expert_for("FlowKit/Fork-v0", noise=-1)


def test_noise_is_added_in_units_of_the_action_and_clipped():
    class Still(Expert):
        def choose(self, env, observation):
            return np.zeros(1)

    env = Plain()
    quiet, loud = Still(), Still(noise=0.3)
    for expert in (quiet, loud):
        expert.reset(env, np.random.default_rng(0))
    assert quiet.act(env, None) == 0
    draws = np.array([loud.act(env, None)[0] for _ in range(4000)])
    assert draws.std() == pytest.approx(0.3, rel=0.05)
    assert np.abs(draws).max() <= 1


def test_a_module_that_cannot_be_imported_is_one_line():
    with pytest.raises(UserError, match=r"json\.nothing cannot be imported: ModuleNotFoundError"):
        make_env("json.nothing:Some-v0")


@pytest.mark.parametrize("noise", [-0.1, float("nan"), float("inf")])
def test_noise_is_a_finite_number(noise):
    with pytest.raises(UserError, match="noise of an expert"):
        expert_for("FlowKit/Fork-v0", noise=noise)


def test_without_gymnasium_there_is_one_line(tmp_path):
    # In a process of its own: here gymnasium is loaded.
    code = (
        "import sys; sys.modules['gymnasium'] = None\n"
        "from domains.policy.data.scripted import ScriptedDemonstrations\n"
        f"ScriptedDemonstrations('FlowKit/Fork-v0', cache={str(tmp_path)!r}).prepare()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "UserError: environments need gymnasium" in done.stderr.splitlines()[-1]
