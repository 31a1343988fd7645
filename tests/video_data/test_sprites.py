from __future__ import annotations

import gzip
import hashlib

import numpy as np
import pytest

from domains.video.data.clips import SPLITS
from domains.video.data.draws import uniforms
from domains.video.data.sets import open_set
from domains.video.data.shapes import NAMES, draw_shapes, shifted
from domains.video.data.sprites import PALETTE, BouncingSprites
from flowkit.errors import UserError

#: Of the first eight test clips; with other clips, the set gets another version.
DIGESTS = {"sprites-det": "6b04f13f93f8515e", "sprites-sto": "8e36901e0c901ef0"}


def test_a_clip_is_a_function_of_seed_and_number():
    data = BouncingSprites(size=32, seed=4)
    train = data.split("train")
    batch = train.batch([7, 3, 900])
    assert batch["frames"].shape == (3, 20, 3, 32, 32)
    assert np.array_equal(
        batch["frames"][1:2], BouncingSprites(size=32, seed=4, clips=50).split("train").batch([3])["frames"]
    )
    assert not np.array_equal(
        batch["frames"][1:2], BouncingSprites(size=32, seed=5).split("train").batch([3])["frames"]
    )
    assert len({data.split(name).batch([3])["frames"].numpy().tobytes() for name in SPLITS}) == 3
    assert len({int(data.split(name).batch([3])["clip"]) for name in SPLITS}) == 3
    # A longer clip begins as a shorter one does.
    shorter = BouncingSprites(size=32, seed=4, frames=10).split("train")
    assert np.array_equal(shorter.batch([7, 3])["frames"], batch["frames"][:2, :10])


def test_draws_are_uniform_and_differ():
    draws = uniforms(1, np.arange(4000), 16)
    assert len(np.unique(draws)) == draws.size
    assert abs(draws.mean() - 0.5) < 0.005
    assert abs(draws.var() - 1 / 12) < 0.002
    assert np.abs(np.corrcoef(draws.T) - np.eye(16)).max() < 0.07


@pytest.mark.parametrize("motion", ["stochastic", "deterministic"])
@pytest.mark.parametrize("stride", [1, 3])
def test_sprites_stay_inside_at_their_speed(motion, stride):
    data = BouncingSprites(motion=motion, speed=[2.0, 5.0], frames=30, stride=stride)
    moved = data.split("train").motion(np.arange(200))
    assert moved.corners.min() >= 0
    assert moved.corners.max() <= 64 - 28
    speed = np.hypot(moved.velocities[..., 0], moved.velocities[..., 1])
    np.testing.assert_allclose(speed, speed[:, :1].repeat(30, 1))
    assert speed.min() >= 2
    assert speed.max() <= 5
    steps = np.diff(moved.corners, axis=1)
    free = ~moved.bounced[:, 1:]
    np.testing.assert_allclose(steps[free], (moved.velocities[:, :-1] * stride)[free], atol=1e-9)
    assert 0.05 < moved.bounced.mean() < 0.6


def test_walls_reflect_or_turn_at_random():
    options = {"frames": 40, "clips": 2000}
    reflected = BouncingSprites(motion="deterministic", **options).split("train").motion(np.arange(400))
    met = reflected.bounced[:, 1:]
    before, after = abs(reflected.velocities[:, :-1][met]), abs(reflected.velocities[:, 1:][met])
    np.testing.assert_allclose(before, after, atol=1e-9)
    turned = BouncingSprites(motion="stochastic", **options).split("train").motion(np.arange(400))
    # At the left wall the new angle is uniform over the half circle that leads away.
    met = turned.bounced[:, 1:] & (turned.corners[:, 1:, :, 1] == 0) & (turned.corners[:, 1:, :, 0] % 36 != 0)
    velocity = turned.velocities[:, 1:][met]
    angle = np.arctan2(velocity[:, 0], velocity[:, 1])
    assert len(angle) > 500
    assert abs(angle).max() <= np.pi / 2
    counts = np.histogram(angle, 6, (-np.pi / 2, np.pi / 2))[0] / len(angle)
    assert abs(counts - 1 / 6).max() < 0.06


def test_pictures_are_where_the_attributes_say():
    samples = BouncingSprites(sprites=1, side=13, size=32, frames=12).split("test")
    known = samples.attributes(range(60))
    light = samples.read(np.arange(60))[:, :, 0].astype(float)
    y, x = np.arange(32)[:, None], np.arange(32)
    middle = np.stack([(light * axis).sum((2, 3)) / light.sum((2, 3)) for axis in (y, x)], -1)
    even = np.isin(known["classes"][:, 0], [NAMES.index(name) for name in ("disc", "square", "ring", "plus", "bars")])
    assert even.sum() > 10
    off = middle[even] - known["positions"][even, 0]
    # Within the half of an eighth that positions are rounded to, and the rounding of grey levels.
    assert abs(off).max() < 0.13
    first = known["positions"][:, 0, 1] - known["positions"][:, 0, 0]
    free = known["bounces"][:, 0] == 0
    octant = np.floor(np.arctan2(first[:, 0], first[:, 1]) / (np.pi / 4)).astype(int) % 8
    assert np.array_equal(octant[free], known["direction"][free, 0])
    np.testing.assert_allclose(np.hypot(first[:, 0], first[:, 1])[free], known["speed"][free, 0])
    assert set(known["third"].ravel().tolist()) == {0, 1, 2}


def test_held_out_shapes_are_in_the_test_split_only():
    data = BouncingSprites(size=32, held_out=4)
    train, test = (
        set(data.split(name).attributes(range(300))["classes"].ravel().tolist()) for name in ("train", "test")
    )
    assert train == set(range(8))
    assert test == set(range(8, 12))
    assert data.statistics()["held_out"] == list(NAMES[8:])


def test_sprites_in_colour_are_the_white_ones_tinted():
    white, tinted = (BouncingSprites(size=32, sprites=1, colour=colour).split("train") for colour in (False, True))
    light, colour = white.read(np.arange(20)), tinted.read(np.arange(20))
    assert np.array_equal(light[:, :, 0], light[:, :, 2])
    tints = PALETTE[tinted.attributes(range(20))["colours"][:, 0]]
    assert np.array_equal(colour, light * tints[:, None, :, None, None] // 255)
    assert len(np.unique(tinted.attributes(range(200))["colours"])) == 6


def test_a_shift_of_part_of_a_pixel_keeps_the_light():
    shapes = draw_shapes(16)
    assert len({shape.tobytes() for shape in shapes}) == len(NAMES)
    for phase in range(8):
        moved = shifted(shapes, np.full(12, phase), np.full(12, 7 - phase))
        assert moved.shape == (12, 17, 17)
        lost = shapes.sum((1, 2), dtype=int) - moved.sum((1, 2), dtype=int)
        assert (lost >= 0).all()
        assert (lost < 17 * 17).all()
    assert np.array_equal(shifted(shapes, np.zeros(12, int), np.zeros(12, int))[:, :-1, :-1], shapes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 1}, "frames is 1"),
        ({"sprites": 0}, "sprites is 0"),
        ({"side": 64}, "side is 64"),
        ({"speed": [3.0]}, "speed has 1 entries"),
        ({"speed": [5.0, 2.0]}, "speed is 5 to 2"),
        ({"speed": [5.0, 60.0]}, "speed is 5 to 60"),
        ({"held_out": 12}, "held_out is 12"),
        ({"clips": 0}, "0 clips in the train split"),
    ],
)
def test_bad_arguments_get_one_line(options, message):
    with pytest.raises(UserError, match=message):
        BouncingSprites(**options).prepare()
    with pytest.raises(UserError, match="no split 'tset'"):
        BouncingSprites().split("tset")  # pyright: ignore[reportArgumentType]


def test_the_named_sets_stay_what_they_are():
    for name, digest in DIGESTS.items():
        samples = open_set(name).split("test")
        content = samples.batch(range(8))["frames"].numpy().tobytes()
        assert hashlib.blake2b(content, digest_size=8).hexdigest() == digest, name
    with pytest.raises(UserError, match=r"no set 'sprites'.*sprites-det"):
        open_set("sprites")


@pytest.fixture
def clothes(tmp_path):
    rng = np.random.default_rng(0)
    made = {}
    for name, count in (("train", 60), ("t10k", 30)):
        pictures = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        made[name] = pictures
        for what, array in (("images-idx3", pictures), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + np.asarray(array.shape, ">u4").tobytes()
            (tmp_path / f"{name}-{what}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    return tmp_path, made


def test_sprites_show_clothes_and_the_test_split_others(clothes):
    folder, made = clothes
    options = {"pictures": "fashion-mnist", "folder": str(folder), "sprites": 1, "speed": [0.0, 0.0], "frames": 3}
    data = BouncingSprites(held_out=3, **options)
    for name, file, first, allowed in (("train", "train", 0, range(7)), ("test", "t10k", 60, range(7, 10))):
        samples = data.split(name)
        known = samples.attributes(range(200))
        assert set(known["classes"].ravel().tolist()) == set(allowed)
        numbers = known["pictures"][:, 0] - first
        assert (numbers >= 0).all()
        assert np.array_equal(numbers % 10, known["classes"][:, 0])
        middle = known["positions"][:, 0, 0] - 13.5
        fine = np.rint(middle * 8).astype(int)
        whole = np.flatnonzero((fine % 8 == 0).all(1))
        assert len(whole)
        frames = samples.read(np.arange(200))
        for row in whole:
            y, x = fine[row] // 8
            assert np.array_equal(frames[row, 2, 1, y : y + 28, x : x + 28], made[file][numbers[row]])
    assert data.statistics()["held_out"] == ["sneaker", "bag", "boot"]
    halved = BouncingSprites(size=32, colour=True, **options).split("train")
    assert halved.source.side == 14
    assert halved.read(np.arange(5)).shape == (5, 3, 3, 32, 32)
    assert set(halved.attributes(range(200))["classes"].ravel().tolist()) == set(range(10))


def test_missing_or_broken_clothes_get_one_line(clothes):
    folder, _ = clothes
    options = {"pictures": "fashion-mnist", "folder": str(folder)}
    with pytest.raises(UserError, match="side is 20"):
        BouncingSprites(side=20, **options).prepare()
    with pytest.raises(UserError, match="held_out is 10"):
        BouncingSprites(held_out=10, **options).prepare()
    file = folder / "t10k-images-idx3-ubyte.gz"
    content = file.read_bytes()
    for broken in (content[:200], gzip.compress(gzip.decompress(content)[:-5]), b"something else"):
        file.write_bytes(broken)
        with pytest.raises(UserError, match="t10k-images") as caught:
            BouncingSprites(**options).prepare()
        assert "\n" not in str(caught.value)
    file.unlink()
    with pytest.raises(UserError, match="apt-get install dataset-fashion-mnist"):
        BouncingSprites(**options).prepare()
