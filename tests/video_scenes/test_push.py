from __future__ import annotations

import numpy as np
import pytest

from domains.video.data.push import COLOURS, PackedPushes, PushScene, octant, pack_pushes, scene_text
from flowkit.errors import UserError


def make(tmp_path, **options):
    small = {"clips": 12, "validation": 2, "test": 4, "length": 16, "frames": 16, "size": 24, "cache": str(tmp_path)}
    return PushScene(**{**small, **options})


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    pytest.importorskip("mujoco")
    data = make(tmp_path_factory.mktemp("push"))
    try:
        data.prepare()
    except UserError as error:
        pytest.skip(f"no OpenGL here: {error}")
    return data


def test_actions_move_the_rod_and_the_rod_moves_pucks(pushed):
    train = pushed.split("train")
    batch, known = train.batch(range(12)), train.attributes(range(12))
    assert batch["frames"].shape == (12, 16, 3, 24, 24)
    assert batch["actions"].shape == (12, 15, 2)
    assert float(batch["actions"].abs().max()) <= 1
    rod = np.diff(known["positions"][:, :, -1], axis=1)
    actions = batch["actions"].numpy()
    free = np.abs(known["positions"][:, 1:, -1]).max(-1) < 0.4
    # A frame lasts a tenth of a second, full action is 0.9 m/s; pucks and walls hold the rod up.
    expected = 0.09 * actions
    assert np.median(np.abs(rod - expected)[free]) < 0.015
    assert np.corrcoef(rod[free].ravel(), expected[free].ravel())[0, 1] > 0.9
    moved = known["distance"] > 0.05
    assert 0.15 < moved.mean() < 0.95
    still = known["displacement"] == 8
    assert (known["distance"][still] < 0.02).all()
    way = known["positions"][:, -1, :-1] - known["positions"][:, 0, :-1]
    assert np.array_equal(octant(way)[~still], known["displacement"][~still])
    assert np.abs(known["positions"]).max() < 0.5
    # Smooth: what comes next is like what was.
    assert np.corrcoef(actions[:, 1:].ravel(), actions[:, :-1].ravel())[0, 1] > 0.5


def test_pictures_show_the_pucks_where_they_are(pushed):
    train = pushed.split("train")
    frames, known = train.batch(range(12))["frames"].numpy().astype(float), train.attributes(range(12))
    tints = frames - frames.mean(axis=2, keepdims=True)
    seen, there = [], []
    for row in range(12):
        colours = np.asarray(COLOURS)[known["colours"][row]]
        colours -= colours.mean(axis=1, keepdims=True)
        colours /= np.linalg.norm(colours, axis=1, keepdims=True)
        if colours[0] @ colours[1] > 0.3:
            continue
        # Pixels whose tint is that of one puck; the rod may hide some.
        light = np.einsum("tchw,kc->kthw", tints[row], colours).clip(30) - 30
        total = light.sum((2, 3))
        if total.min() < 100:
            continue
        x, y = ((light * axis).sum((2, 3)) / total for axis in (np.arange(24), np.arange(24)[:, None]))
        seen.append(np.stack([x, -y], -1).reshape(-1, 2))
        there.append(known["positions"][row, :, :-1].swapaxes(0, 1).reshape(-1, 2))
    assert len(seen) >= 4
    for axis in range(2):
        assert np.corrcoef(np.concatenate(seen)[:, axis], np.concatenate(there)[:, axis])[0, 1] > 0.75
    assert np.ptp(frames[:, 0], axis=0).max() > 60


def test_a_clip_comes_again(pushed, tmp_path):
    again = make(tmp_path, clips=2)
    assert np.array_equal(again.split("train").batch([1])["frames"], pushed.split("train").batch([1])["frames"])
    assert np.array_equal(again.split("train").batch([1])["actions"], pushed.split("train").batch([1])["actions"])


def test_packed_clips_are_the_same_clips_with_the_same_attributes(pushed, tmp_path):
    path = tmp_path / "pushes.npz"
    pack_pushes(pushed, path, length=16)
    packed = PackedPushes(str(path), frames=16, size=24, validation=0, test=0, cache=str(tmp_path / "cache"))
    train, drawn = packed.split("train"), pushed.split("train")
    assert len(train) == 12 + 2 + 4
    rows = range(12)
    for name, values in drawn.batch(rows).items():
        if name != "clip":
            assert np.array_equal(train.batch(rows)[name], values), name
    known = train.attributes(rows)
    for name, values in drawn.attributes(rows).items():
        assert np.array_equal(known[name], values), name
    shorter = PackedPushes(str(path), frames=8, stride=2, size=24, validation=0, test=0, cache=str(tmp_path / "cache"))
    steps = np.arange(8) * 2
    found = shorter.split("train").attributes([0])["positions"][0]
    assert np.array_equal(found, known["positions"][0, steps])
    with pytest.raises(UserError, match="length is 17: it is 2 to 16"):
        pack_pushes(pushed, path, length=17)
    np.savez(tmp_path / "bare.npz", frames=np.zeros((2, 16, 24, 24, 3), np.uint8))
    bare = PackedPushes(str(tmp_path / "bare.npz"), size=24, validation=0, test=0, cache=str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"bare\.npz.*pack_pushes writes them"):
        bare.split("train").attributes([0])


def test_octants_are_counted_from_the_right_towards_the_back():
    angles = (np.arange(8) + 0.5) * np.pi / 4
    assert octant(np.stack([np.cos(angles), np.sin(angles)], -1)).tolist() == list(range(8))


def test_bad_arguments_and_missing_opengl_get_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="pucks is 5"):
        make(tmp_path, pucks=5).prepare()
    with pytest.raises(UserError, match="flips is true"):
        make(tmp_path, flips=True).prepare()
    assert scene_text(3).count("puck2") == 2
    pytest.importorskip("mujoco")
    monkeypatch.setenv("PYOPENGL_PLATFORM", "egl")
    monkeypatch.setitem(__import__("sys").modules, "mujoco.egl", None)
    with pytest.raises(UserError, match=r"needs OpenGL without a window.*libosmesa6") as caught:
        make(tmp_path).prepare()
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(__import__("sys").modules, "mujoco", None)
    with pytest.raises(UserError, match="video-sim"):
        make(tmp_path).prepare()
