from __future__ import annotations

import numpy as np
import pytest
from made_videos import pictures

from domains.video.data.arrays import ArrayClips, pack_arrays, read_arrays
from domains.video.data.clips import SPLITS
from domains.video.data.resident import ResidentClips
from domains.video.data.street import DEBIAN, Pedestrians
from flowkit.errors import UserError

FILM = np.zeros((9, 16, 16, 3), np.uint8)


def make(path, **options):
    return ArrayClips(str(path), cache=str(path.parent / "cache"), **{"frames": 4, "size": 16, **options})


def save(path, **named):
    np.savez(path, allow_pickle=False, **named)
    return path


def test_clips_of_many_videos_with_actions(tmp_path):
    videos = np.stack([pictures(10, 16, 16, seed=seed) for seed in range(6)])
    actions = np.random.default_rng(0).normal(size=(6, 9, 2)).astype(np.float32)
    path = save(tmp_path / "a.npz", frames=videos, actions=actions, fps=np.float64(8))
    data = make(path, stride=2, hop=1, validation=0.2, test=0.2)
    clips = {name: data.split(name) for name in SPLITS}
    assert [len(clips[name]) for name in SPLITS] == [4 * 4, 1, 1]
    for name in SPLITS:
        batch = clips[name].batch(range(len(clips[name])))
        video = clips[name].attributes(range(len(clips[name])))["video"]
        first = clips[name].starts % 10
        for row in range(len(video)):
            seen = videos[video[row], first[row] : first[row] + 7 : 2].transpose(0, 3, 1, 2)
            assert np.array_equal(batch["frames"][row], seen)
            done = actions[video[row], first[row] : first[row] + 6].reshape(3, 4)
            assert np.array_equal(batch["actions"][row], done)
    assert data.statistics()["actions"] == 4
    assert data.statistics()["fps"] == 4
    # Another source may keep them.
    kept = ResidentClips(data, device="cpu").split("train").batch([3])
    assert np.array_equal(kept["actions"], clips["train"].batch([3])["actions"])


def test_squares_of_one_long_video_and_grey(tmp_path):
    film = pictures(60, 24, 40)[..., :1]
    np.save(tmp_path / "film.npy", film)
    data = make(tmp_path / "film.npy", windows=3, candidates=4, validation=0.2, test=0.2)
    test = data.split("test")
    assert len(test) == 3 * 3
    for row, (y, x) in enumerate(test.attributes(range(9))["corner"].tolist()):
        first = 48 + 4 * (row // 3)
        seen = film[first : first + 4, y : y + 16, x : x + 16].transpose(0, 3, 1, 2).repeat(3, 1)
        assert np.array_equal(test.batch([row])["frames"][0], seen)


def test_a_packed_file_is_the_same_and_smaller(tmp_path):
    still = np.repeat(pictures(1, 32, 32), 40, axis=0)
    still[:, 4:8, 4:8] = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3))
    pack_arrays(tmp_path / "exact.npz", still, fps=5.0)
    assert (tmp_path / "exact.npz").stat().st_size < still.nbytes / 10
    exact = read_arrays(tmp_path / "exact.npz")
    assert exact.fps == 5
    assert np.array_equal(exact.video(0).transpose(0, 2, 3, 1), still)
    noisy = (still.astype(int) + np.random.default_rng(1).integers(0, 3, still.shape)).clip(0, 255).astype(np.uint8)
    pack_arrays(tmp_path / "near.npz", noisy, tolerance=2)
    near = read_arrays(tmp_path / "near.npz").video(0).transpose(0, 2, 3, 1)
    assert abs(near.astype(int) - noisy).max() == 2
    pack_arrays(tmp_path / "exact.npz", noisy)
    assert (tmp_path / "near.npz").stat().st_size < (tmp_path / "exact.npz").stat().st_size / 4


def test_what_is_known_of_videos_and_frames_and_the_ground_come_back(tmp_path):
    videos = np.stack([pictures(6, 16, 16, seed=seed) for seed in range(5)])
    ground = np.median(videos[:, 0], axis=0).astype(np.uint8)
    states = np.random.default_rng(0).normal(size=(5, 6, 3)).astype(np.float32)
    labels = {"kind": np.arange(5), "pair": np.arange(10).reshape(5, 2)}
    pack_arrays(tmp_path / "a.npz", videos, states=states, labels=labels, ground=ground, fps=5.0)
    data = make(tmp_path / "a.npz", validation=0.2, test=0.2)
    for name in SPLITS:
        clips = data.split(name)
        known, batch = clips.attributes(range(len(clips))), clips.batch(range(len(clips)))
        number, first = known["video"], clips.starts % 6
        for row in range(len(clips)):
            seen = videos[number[row], first[row] : first[row] + 4].transpose(0, 3, 1, 2)
            assert np.array_equal(batch["frames"][row], seen)
        assert np.array_equal(known["kind"], number)
        assert np.array_equal(known["pair"], labels["pair"][number])
    assert np.array_equal(data.mapped.states, states.reshape(30, 3))
    with pytest.raises(UserError, match="tolerance is 2"):
        pack_arrays(tmp_path / "b.npz", videos, ground=ground, tolerance=2)


def test_a_mirror_shows_each_training_clip_once_more(tmp_path):
    np.save(tmp_path / "film.npy", pictures(60, 24, 40))
    options = {"windows": 2, "validation": 0.2, "test": 0.2}
    plain, mirrored = (make(tmp_path / "film.npy", flips=flips, **options) for flips in (False, True))
    count = len(plain.split("train"))
    train = mirrored.split("train")
    assert len(train) == 2 * count
    batch = train.batch([5, count + 5])
    assert np.array_equal(batch["frames"][0], plain.split("train").batch([5])["frames"][0])
    assert np.array_equal(batch["frames"][1], batch["frames"][0].flip(-1))
    assert train.attributes([5, count + 5])["flipped"].tolist() == [False, True]
    assert len(mirrored.split("test")) == len(plain.split("test"))
    numbers = np.concatenate([mirrored.split(name).clip_numbers(np.arange(5)) for name in SPLITS])
    assert len({*numbers.tolist(), *train.batch(range(count, count + 5))["clip"].tolist()}) == 20
    path = save(tmp_path / "b.npz", frames=pictures(9, 16, 16), actions=np.zeros((8, 1)))
    with pytest.raises(UserError, match="flips is true"):
        make(path, flips=True, validation=0.0, test=0.0).split("train")


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ({"frames": np.zeros((9, 16, 16, 3))}, "float64"),
        ({"frames": np.zeros((9, 3, 16, 16), np.uint8)}, r"\(9, 3, 16, 16\)"),
        ({"pictures": np.zeros(3)}, "holds pictures"),
        ({"frames": np.zeros((9, 16, 16, 3), np.uint8), "actions": np.zeros((9, 2))}, r"\(1, 8, numbers\)"),
        ({"frames": np.zeros((9, 8, 16, 3), np.uint8)}, "8 x 16 pixels"),
        ({"frames": FILM, "actions": np.full((8, 2), "left")}, "<U4: numbers are expected"),
        ({"frames": FILM, "actions": np.full((8, 2), np.nan)}, "not finite"),
        ({"frames": FILM, "actions": np.zeros((8, 0))}, r"shape \(1, 8, 0\)"),
        ({"frames": FILM, "fps": np.array([10.0, 20.0])}, "one number"),
        ({"frames": FILM, "fps": np.nan}, "one number"),
        ({"frames": FILM, "fps": -1}, "one number"),
        ({"frames": FILM, "states": np.zeros((8, 2))}, r"states of .*\(1, 9, numbers\).*of each frame"),
        ({"frames": FILM, "label_kind": np.zeros(2, int)}, r"label_kind of .*\(1,\) or \(1, K\)"),
        ({"frames": FILM, "label_kind": np.zeros(1)}, "float64"),
        ({"frames": FILM, "ground": np.zeros((16, 16, 1), np.uint8)}, r"ground of .*\(16, 16, 3\)"),
        ({"changes": FILM, "ground": np.zeros((16, 16, 3), np.uint8)}, r"ground of .*with 'frames'"),
    ],
)
def test_other_arrays_get_one_line(named, reason, tmp_path):
    with pytest.raises(UserError, match=reason) as caught:
        make(save(tmp_path / "a.npz", **named), validation=0.0, test=0.0).split("train")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").rglob(".*"))


def test_missing_and_damaged_files_get_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no file .*none\.npz"):
        make(tmp_path / "none.npz").prepare()
    with pytest.raises(UserError, match=r"fps is -1"):
        make(save(tmp_path / "b.npz", frames=FILM), fps=-1.0).prepare()
    path = save(tmp_path / "a.npz", frames=np.zeros((9, 16, 16, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(UserError, match="cannot read arrays"):
        make(path).prepare()


@pytest.fixture
def street(tmp_path):
    # As vtest.avi at size 8; the number of each frame is in its grey.
    frames = np.empty((795, 36, 48, 3), dtype=np.uint8)
    frames[:] = (np.arange(795) % 256)[:, None, None, None]
    pack_arrays(tmp_path / "street.npz", frames, fps=10.0)
    return {"file": str(tmp_path / "street.npz"), "size": 8, "frames": 5, "cache": str(tmp_path / "cache")}


@pytest.mark.parametrize("held", [80, 0])
def test_pedestrians_are_split_in_time_with_gaps(street, held):
    data = Pedestrians(validation=held, windows=2, **street)
    parts = {name: data.split(name) for name in SPLITS if len(data.split(name))}
    shown = {
        name: {frame for start in part.starts.tolist() for frame in range(start, start + 5)}
        for name, part in parts.items()
    }
    assert shown["test"] == set(range(620, 795))
    assert shown["train"] == set(range(500 if held else 600))
    assert shown.get("validation", set()) == set(range(520, 600) if held else ())
    assert len(parts["train"]) == (len(shown["train"]) - 4) * 2 * 2
    first = parts["test"].batch([0])["frames"]
    assert first[0, :, 0, 0, 0].tolist() == [(620 + i) % 256 for i in range(5)]
    assert data.statistics()["fps"] == 10


def test_pedestrians_that_are_not_there_get_one_line(street, tmp_path):
    with pytest.raises(UserError, match=r"opencv-doc.*none\.avi.*apt-get install") as caught:
        Pedestrians(file=str(tmp_path / "none.avi")).prepare()
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="was not packed for size 16"):
        Pedestrians(**{**street, "size": 16}).prepare()
    with pytest.raises(UserError, match="validation is 580"):
        Pedestrians(validation=580, **street).prepare()
    assert DEBIAN.endswith("vtest.avi")
