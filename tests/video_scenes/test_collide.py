from __future__ import annotations

import numpy as np
import pytest

from domains.video.data.collide import Collisions
from flowkit.errors import UserError


def make(tmp_path, **options):
    small = {"clips": 8, "validation": 1, "test": 2, "size": 16, "cache": str(tmp_path)}
    return Collisions(**{**small, **options})


def test_collisions_are_counted_and_bodies_known(tmp_path):
    pytest.importorskip("pybullet")
    data = make(tmp_path)
    train = data.split("train")
    batch, known = train.batch(range(8)), train.attributes(range(8))
    assert batch["frames"].shape == (8, 32, 3, 16, 16)
    assert "actions" not in batch
    assert 1 <= known["collisions"].mean() <= 10
    assert ((known["shapes"] >= 0).sum(1) == known["bodies"]).all()
    assert set(known["bodies"].tolist()) <= {3, 4, 5}
    frames = batch["frames"].numpy().astype(int)
    # Bodies come in: things move in the first half.
    assert (np.abs(frames[:, 8] - frames[:, 0]).max(axis=(1, 2, 3)) > 40).all()
    # Parts of a clip add up.
    halves = make(tmp_path, frames=16, hop=15).split("train")
    assert halves.source.folder == train.source.folder
    parts = halves.attributes(range(16))["collisions"].reshape(8, 2).sum(1)
    late = halves.source.states.reshape(-1, 32)[:8, 31].astype(int)
    assert np.array_equal(parts + late, known["collisions"])
    again = make(tmp_path / "again", clips=1)
    assert np.array_equal(again.split("test").batch([1])["frames"], data.split("test").batch([1])["frames"])


def test_nothing_collides_where_bodies_are_far(tmp_path, monkeypatch):
    pytest.importorskip("pybullet")
    from domains.video.data import collide

    scene = collide.Plane(size=16, length=8, bodies=(2, 2))
    bodies, _ = scene._start(np.random.default_rng(0))
    for number, body in enumerate(bodies):
        scene._bullet.resetBasePositionAndOrientation(
            body, [2.0 * number - 1.0, 0, 0.2], [0, 0, 0, 1], physicsClientId=scene._client
        )
        # Towards each other: 1.6 m apart at 2 m/s each, they meet after 0.4 s, in frame 5 of 12 a second.
        speed = 2.0 if number == 0 else -2.0
        scene._bullet.resetBaseVelocity(body, [speed, 0, 0], [0, 0, 0], physicsClientId=scene._client)
    monkeypatch.setattr(scene, "_start", lambda rng: (bodies, {"bodies": 2}))
    met = scene.render(0).states[:, 0]
    scene.close()
    assert met.sum() == 1
    assert met.argmax() in (5, 6)


def test_bad_arguments_and_a_missing_package_get_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="bodies is "):
        make(tmp_path, bodies=[3, 9]).prepare()
    monkeypatch.setitem(__import__("sys").modules, "pybullet", None)
    with pytest.raises(UserError, match="video-sim"):
        make(tmp_path).prepare()
