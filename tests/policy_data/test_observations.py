from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from domains.policy.observations import ObservationLayout
from flowkit.errors import UserError

NESTED = spaces.Dict(
    {
        "robot": spaces.Dict(
            {"joints": spaces.Box(-1, 1, (2, 3)), "camera": spaces.Box(0, 255, (40, 48, 3), dtype=np.uint8)}
        ),
        "gripper": spaces.Discrete(3, start=1),
        "pair": spaces.Tuple([spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)]),
    }
)


def test_nested_space_becomes_sorted_parts():
    layout = ObservationLayout.of_space(NESTED)
    assert layout.state == (("gripper", 3), ("pair/0", 5), ("pair/1", 2), ("robot/joints", 6))
    assert layout.images == (("robot/camera", 40, 48),)
    assert layout.state_size == 16
    observation = {
        "robot": {"joints": np.arange(6.0).reshape(2, 3), "camera": np.full((40, 48, 3), 7, np.uint8)},
        "gripper": 2,
        "pair": (np.array([1, 2]), np.array([0, 1], dtype=np.int8)),
    }
    parts = layout.parts(observation)
    assert parts["state"].tolist() == [0, 1, 0, 0, 1, 0, 0, 1, 0, 1, 0, 1, 2, 3, 4, 5]
    assert parts["state"].dtype == np.float32
    assert (parts["image/robot/camera"] == 7).all()
    assert ObservationLayout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


class Seen(gym.Env):
    """Shows draws of a space."""

    observation_space, action_space = NESTED, spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def test_a_vector_environments_batch_has_the_rows_of_its_environments():
    layout = ObservationLayout.of_space(NESTED)
    seen = []

    class Remembering(Seen):
        def reset(self, *, seed=None, options=None):
            observation, info = super().reset(seed=seed)
            seen.append(observation)
            return observation, info

    environments = gym.vector.SyncVectorEnv([Remembering] * 3)
    batch, _ = environments.reset(seed=[3, 4, 5])
    parts = layout.parts_batch(batch)
    for name in ("state", "image/robot/camera"):
        assert (parts[name] == np.stack([layout.parts(observation)[name] for observation in seen])).all()
    assert not (parts["state"][0] == parts["state"][1]).all()


def test_keys_choose_parts_and_groups():
    assert ObservationLayout.of_space(NESTED, keys=["robot/joints"]).state == (("robot/joints", 6),)
    robot = ObservationLayout.of_space(NESTED, keys=["robot"])
    assert robot.keys == ("robot/joints", "robot/camera")
    robot.check(NESTED)
    with pytest.raises(UserError, match="did you mean 'gripper'"):
        ObservationLayout.of_space(NESTED, keys=["griper"])


def test_plain_spaces():
    vector = ObservationLayout.of_space(spaces.Box(-1, 1, (3,)))
    assert vector.state == (("", 3),)
    assert vector.parts(np.ones(3))["state"].tolist() == [1, 1, 1]
    image = ObservationLayout.of_space(spaces.Box(0, 255, (64, 48, 3), dtype=np.uint8))
    assert image.images == (("image", 64, 48),)
    assert image.parts(np.zeros((64, 48, 3), np.uint8))["state"].shape == (0,)
    image.check(spaces.Box(0, 255, (64, 48, 3), dtype=np.uint8))
    grid = ObservationLayout.of_space(spaces.Box(0, 10, (7, 7, 3), dtype=np.uint8))
    assert grid.state == (("", 147),)  # symbolic, as in minigrid


@pytest.mark.parametrize(
    ("shape", "turn"),
    [
        ((3, 40, 50), lambda image: image.transpose(2, 0, 1)),
        ((40, 50), lambda image: image[..., 0]),
        ((40, 50, 1), lambda image: image[..., :1]),
    ],
)
def test_images_in_other_orders_are_converted(shape, turn):
    rng = np.random.default_rng(0)
    image = np.repeat(rng.integers(0, 255, (40, 50, 1), dtype=np.uint8), 3, axis=2)
    layout = ObservationLayout.of_space(spaces.Box(0, 255, shape, dtype=np.uint8))
    assert layout.images == (("image", 40, 50),)
    assert (layout.parts(turn(image))["image/image"] == image).all()


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Dict({"a": spaces.Box(-1, 1, (2,))}), "known: a"),
        (spaces.Dict({**NESTED.spaces, "gripper": spaces.Discrete(4, start=1)}), "'gripper' has 4 entries, 3"),
        (spaces.Dict({**NESTED.spaces, "gripper": spaces.Discrete(3)}), "discrete"),
        (
            spaces.Dict(
                {
                    **NESTED.spaces,
                    "robot": spaces.Dict(
                        {"joints": spaces.Box(-1, 1, (6,)), "camera": spaces.Box(0, 255, (48, 48, 3), dtype=np.uint8)}
                    ),
                }
            ),
            "'robot/camera' is 48 x 48",
        ),
    ],
)
def test_check_names_what_differs(space, message):
    with pytest.raises(UserError, match=message):
        ObservationLayout.of_space(NESTED).check(space)


def test_further_keys_in_the_environment_do_no_harm():
    ObservationLayout.of_space(NESTED).check(spaces.Dict({**NESTED.spaces, "more": spaces.Text(4)}))


def test_plain_vector_of_another_size_is_refused():
    layout = ObservationLayout((("", 3),))
    with pytest.raises(UserError, match="has 4 entries, 3 are expected"):
        layout.check(spaces.Box(-1, 1, (4,)))
    with pytest.raises(UserError, match="has 4 entries, 3 are expected"):
        layout.parts(np.zeros(4))


def test_texts_are_refused_unless_left_out():
    space = spaces.Dict({"task": spaces.Text(10), "x": spaces.Box(-1, 1, (2,))})
    with pytest.raises(UserError, match="'task' is a Text space"):
        ObservationLayout.of_space(space)
    assert ObservationLayout.of_space(space, keys=["x"]).state_size == 2


def test_wrong_values_are_refused():
    layout = ObservationLayout.of_space(
        spaces.Dict({"d": spaces.Discrete(2), "i": spaces.Box(0, 255, (32, 32, 3), np.uint8)})
    )
    image = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(UserError, match="outside its"):
        layout.parts({"d": 2, "i": image})
    with pytest.raises(UserError, match="float32 of shape"):
        layout.parts({"d": 0, "i": image.astype(np.float32)})
    with pytest.raises(UserError, match="no part 'd'"):
        layout.parts({"i": image})
    with pytest.raises(UserError, match="number of rows"):
        layout.parts_batch({"d": np.zeros(2, int), "i": image[None]})


def test_keys_of_a_plain_box_and_a_plain_box_of_keys():
    box = spaces.Box(-1, 1, (2,))
    with pytest.raises(UserError, match="no key 'a': it is one Box, without keys"):
        ObservationLayout.of_space(box, keys=["a"])
    with pytest.raises(UserError, match=r"has keys \(a, b\), one plain box is expected"):
        ObservationLayout.of_space(box).check(spaces.Dict(a=box, b=box))
