from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from domains.policy.data.arrays import ArrayDemonstrations
from flowkit.errors import UserError

PUSHT = Path(__file__).parents[3] / "shared" / "data" / "pusht" / "pusht_human.npz"


@pytest.fixture
def file(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "arrays.npz"
    np.savez(
        path,
        state=rng.normal(size=(12, 5)),
        keypoint=rng.normal(size=(12, 3, 2)).astype(np.float32),
        action=rng.normal(size=(12, 2)),
        episode_ends=np.array([5, 12]),
        lengths=np.array([5, 7]),
        text=np.array(["a"] * 12),
        image=rng.integers(0, 255, (12, 8, 8, 3), dtype=np.uint8),
        short=np.zeros((11, 2)),
        holed=np.where(np.arange(24).reshape(12, 2) == 13, np.nan, 0.0),
    )
    return path


def test_columns_are_joined_in_the_given_order(file):
    data = ArrayDemonstrations(
        str(file), state=["keypoint", "state[:2]", "state[-1]"], action_low=[-1], action_high=[2, 3]
    )
    episodes, arrays = data.recorded, np.load(file)
    expected = np.concatenate(
        [arrays["keypoint"].reshape(12, 6), arrays["state"][:, :2], arrays["state"][:, 4:]], axis=1
    ).astype(np.float32)
    assert (episodes.observations["state"] == expected).all()
    assert episodes.layout.state == (("", 9),)
    assert episodes.ends.tolist() == [5, 12]
    assert (episodes.actions == arrays["action"].astype(np.float32)).all()
    assert episodes.action_low.tolist() == [-1, -1]
    assert episodes.action_high.tolist() == [2, 3]


def test_keys_are_sorted_as_the_environments_are(file):
    data = ArrayDemonstrations(
        str(file), state=["points=keypoint", "agent=state[:2]"], actions="action[1:]", images={"camera": "image"}
    )
    episodes, arrays = data.recorded, np.load(file)
    assert episodes.layout.state == (("agent", 2), ("points", 6))
    assert episodes.layout.images == (("camera", 8, 8),)
    assert (episodes.observations["state"][:, :2] == arrays["state"][:, :2].astype(np.float32)).all()
    assert (episodes.observations["image/camera"] == arrays["image"]).all()
    assert episodes.actions.shape == (12, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state": ["keypoints"]}, "did you mean 'keypoint'"),
        ({"actions": "acts"}, "did you mean 'action'"),
        ({"ends": "ends"}, "no array 'ends'"),
        ({"ends": "lengths"}, "numpy.cumsum"),
        ({"ends": "action"}, "no row of integers"),
        ({"state": ["state[9]"]}, "chooses no column of the 5"),
        ({"state": ["state[5:]"]}, "chooses no column"),
        ({"state": ["state[:"]}, "cannot be read"),
        ({"state": ["state[1:2:3:4]"]}, "chooses no column"),
        ({"state": ["text"]}, "numbers are expected"),
        ({"state": ["short"]}, "12 actions and states of 11 rows"),
        ({"state": ["a=state", "keypoint"]}, "mixes entries"),
        ({"state": ["a=state", "a=keypoint"]}, "gives a key twice"),
        ({"actions": "holed"}, "arrays.npz: episode 1 step 1 has a NaN or infinite action"),
        ({"images": {"x": "keypoint"}}, "images are uint8"),
        ({"action_low": [1, 2, 3]}, "action_low has 3 entries"),
    ],
)
def test_mistakes_are_one_line(file, options, message):
    with pytest.raises(UserError, match=message) as caught:
        ArrayDemonstrations(str(file), **{"state": ["state"], **options}).prepare()
    assert "\n" not in str(caught.value)


def test_broken_files_are_one_line(tmp_path, file):
    for name, content in {
        "missing.npz": None,
        "cut.npz": file.read_bytes()[:500],
        "text.npz": b"hello",
        "empty.npz": b"",
    }.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=re.escape(name)) as caught:
            ArrayDemonstrations(str(tmp_path / name), state=["state"]).prepare()
        assert "\n" not in str(caught.value)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(UserError, match="named arrays"):
        ArrayDemonstrations(str(tmp_path / "one.npy"), state=["state"]).prepare()
    np.savez(tmp_path / "objects.npz", state=np.array([{}], dtype=object), action=np.zeros((1, 1)))
    with pytest.raises(UserError, match="objects"):
        ArrayDemonstrations(str(tmp_path / "objects.npz"), state=["state"]).prepare()


@pytest.mark.skipif(not PUSHT.is_file(), reason="the human PushT demonstrations are not beside the repository")
def test_human_push_t():
    data = ArrayDemonstrations(
        str(PUSHT), state=["keypoint", "state[:2]"], history=2, validation=0.02, action_low=[0], action_high=[512]
    )
    statistics = data.statistics()
    assert (statistics["episodes"], statistics["steps"]) == (206, 25650)
    assert statistics["lengths"] == {"min": 49, "median": statistics["lengths"]["median"], "max": 246}
    assert statistics["splits"]["validation"]["episodes"] == 4
    assert statistics["layout"]["state"] == [["", 20]]
    assert min(statistics["action"]["min"]) >= 12
    assert max(statistics["action"]["max"]) <= 511
    got = data.split("train").batch(range(256))
    assert got["state"].shape == (256, 2, 20)
    assert got["actions"].shape == (256, 16, 2)


def test_a_file_damaged_inside_is_one_line(tmp_path):
    path = tmp_path / "a.npz"
    state = np.random.default_rng(0).normal(size=(30, 3))
    np.savez_compressed(path, state=state, action=state[:, :1], episode_ends=[30])
    content = bytearray(path.read_bytes())
    content[60:110] = bytes(255 - value for value in content[60:110])
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match="cannot read the arrays"):
        ArrayDemonstrations(str(path), state=["state"]).prepare()


@pytest.mark.parametrize("low", [1.0, float("nan")])
def test_bounds_without_room_are_refused(tmp_path, low):
    path = tmp_path / "a.npz"
    np.savez(path, state=np.zeros((9, 3)), action=np.zeros((9, 2)), episode_ends=[9])
    with pytest.raises(UserError, match="no action fits"):
        ArrayDemonstrations(str(path), state=["state"], action_low=[low], action_high=[-1.0]).prepare()
