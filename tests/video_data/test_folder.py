from __future__ import annotations

import pickle
import re
from itertools import islice

import numpy as np
import pytest
import torch
from made_videos import H264, KINDS, Kind, cut, write_sound, write_video

from domains.video.data.clips import SPLITS, MappedFrames, clip_starts
from domains.video.data.folder import VideoFolder
from domains.video.data.reader import Fit, decode
from domains.video.data.windows import draw_corners
from flowkit.errors import UserError
from flowkit.train.loader import Loader

LOSSLESS = Kind("lossless.mkv", "ffv1", "bgr0")


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "videos"
    (root / "deep").mkdir(parents=True)
    for i, (name, count) in enumerate([("a.mkv", 30), ("b.mkv", 25), ("c.mkv", 40), ("deep/d.mkv", 12)]):
        write_video(root / name, LOSSLESS, count, seed=i)
    write_video(root / "e.mp4", H264, 22, seed=9)
    (root / "notes.txt").write_text("no video")
    (root / ".f.mkv").write_bytes(b"half a copy")
    return root


def make(root, **options):
    return VideoFolder(str(root), cache=str(root.parent / "cache"), **{"frames": 4, "size": 24, **options})


def test_clips_are_those_of_the_files(folder):
    data = make(folder, stride=2, hop=3, validation=0.0, test=0.0)
    train = data.split("train")
    expected = []
    for name in ("a.mkv", "b.mkv", "c.mkv", "deep/d.mkv", "e.mp4"):
        every = np.stack(list(decode(folder / name, Fit(24))))
        expected += [every[first : first + 7 : 2] for first in range(0, len(every) - 6, 3)]
    batch = train.batch(range(len(train)))
    assert set(batch) == {"frames", "clip"}
    assert batch["frames"].shape == (len(expected), 4, 3, 24, 24)
    assert np.array_equal(batch["frames"].numpy(), np.stack(expected))
    assert train.attributes([0, len(train) - 1])["video"].tolist() == [0, 4]
    some = train.batch([5, 2, 5])
    assert np.array_equal(some["frames"].numpy(), batch["frames"].numpy()[[5, 2, 5]])
    with pytest.raises(IndexError):
        train.batch([len(train)])


def spanned(samples):
    span = (samples.frames - 1) * samples.stride + 1
    return {frame for start in samples.starts.tolist() for frame in range(start, start + span)}


@pytest.mark.parametrize(("only", "shares"), [("", (0.2, 0.2)), ("c.mkv", (0.2, 0.3)), ("", (0.4, 0.5))])
def test_no_frame_is_in_two_splits(folder, only, shares):
    data = make(folder / only if only else folder, validation=shares[0], test=shares[1], seed=3)
    splits = {name: data.split(name) for name in SPLITS}
    assert all(len(samples) for samples in splits.values())
    seen = [spanned(samples) for samples in splits.values()]
    assert sum(map(len, seen)) == len(set.union(*seen))
    if only:
        # Held-out parts come later than what was learnt from.
        assert max(seen[0]) < min(seen[1])
        assert max(seen[1]) < min(seen[2])
    for name in ("validation", "test"):
        starts = splits[name].starts
        assert (np.diff(starts) >= 4).all()
    clips = np.concatenate([samples.batch(range(len(samples)))["clip"].numpy() for samples in splits.values()])
    assert len(set(clips.tolist())) == len(clips)


def test_windows_are_squares_of_the_scaled_frames(tmp_path):
    path = write_video(tmp_path / "w.mkv", Kind("", "ffv1", "bgr0", size=(64, 96)), 30)
    data = make(path, window=32, size=16, windows=5, frames=6, hop=2, validation=0.0, test=0.3)
    whole = np.stack(list(decode(path, Fit(16, 32))))
    assert whole.shape == (30, 3, 32, 48)
    train, test = data.split("train"), data.split("test")
    assert (len(train), len(test)) == (8 * 5, 5)
    corners = train.attributes(range(40))["corner"]
    assert len(np.unique(corners, axis=0)) > 30
    assert corners.max(0).tolist() == pytest.approx([16, 32], abs=4)
    batch = train.batch(range(40))
    for row, (y, x) in enumerate(corners.tolist()):
        first = 2 * (row // 5)
        assert np.array_equal(batch["frames"][row], whole[first : first + 6, :, y : y + 16, x : x + 16])
    assert not set(batch["clip"].tolist()) & set(test.batch(range(5))["clip"].tolist())
    write_video(tmp_path / "x.mkv", LOSSLESS, 30)
    write_video(tmp_path / "y.mkv", LOSSLESS, 30)
    with pytest.raises(UserError, match=r"x\.mkv.* have another size"):
        make(tmp_path, window=32, size=16).prepare()


def test_of_many_windows_the_one_that_changes_most_is_taken():
    frames = np.zeros((40, 3, 64, 96), dtype=np.uint8)
    for i in range(40):
        frames[i, :, 40:48, 2 * i : 2 * i + 8] = 255
    starts = np.arange(0, 30, 3)
    options = {"span": 9, "size": 16, "windows": 2, "seed": 1}
    any_one = draw_corners(frames, starts, candidates=1, **options)
    assert any_one.shape == (10, 2, 2)
    best = draw_corners(frames, starts, candidates=200, **options)
    assert best.min() >= 0
    assert best.reshape(-1, 2).max(0).tolist() <= [48, 80]

    def change(corners):
        total = 0.0
        for start, pair in zip(starts, corners, strict=True):
            for y, x in pair:
                clip = frames[[start, start + 4, start + 8], 0, y : y + 16, x : x + 16].astype(float)
                total += abs(np.diff(clip, axis=0)).sum()
        return total

    assert change(best) > 4 * change(any_one)
    assert np.array_equal(draw_corners(frames, starts[4:], candidates=200, **options), best[4:])


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_the_order_of_clips_does_not_depend_on_threads(folder, threads):
    train = make(folder).split("train")
    shares = islice(Loader(train, batch=8, seed=3, threads=threads), 9)
    plain = Loader(train, batch=8, seed=3, threads=0)
    for share in shares:
        expected = plain.share(share.epoch, share.index).parts[0].raw
        assert torch.equal(share.parts[0].raw["frames"], expected["frames"])


def test_files_are_decoded_once_and_again_when_they_change(folder, monkeypatch):
    first = make(folder).split("train")
    monkeypatch.setattr("domains.video.data.folder.decode", None)
    again = make(folder, stride=2, frames=3, validation=0.2).split("train")
    assert again.source.folder == first.source.folder
    monkeypatch.undo()
    write_video(folder / "a.mkv", LOSSLESS, 18)
    changed = make(folder).split("train")
    assert changed.source.folder != first.source.folder
    assert len(changed.source.frames) == len(first.source.frames) - 12


def test_clips_travel_to_another_process_without_their_frames(folder):
    train = make(folder).split("train")
    content = pickle.dumps(train)
    assert len(content) < 20_000 < train.source.frames.nbytes
    assert np.array_equal(pickle.loads(content).batch([3])["frames"], train.batch([3])["frames"])


def test_one_bad_file_is_left_out_and_named(folder, capfd):
    whole = make(folder, validation=0.0, test=0.0).split("train")
    cut(folder / "e.mp4", folder / "b2.mp4", 0.7)
    data = make(folder, validation=0.0, test=0.0)
    train = data.split("train")
    assert np.array_equal(train.batch(range(9))["frames"], whole.batch(range(9))["frames"])
    assert len(train) == len(whole)
    assert "b2.mp4" in capfd.readouterr().err
    assert list(data.statistics()["skipped"]) == ["b2.mp4"]


def test_a_file_that_breaks_late_leaves_nothing_behind(folder):
    clean = make(folder, validation=0.0, test=0.0).split("train").source.frames
    kind = next(kind for kind in KINDS if kind.name == "mpeg4.avi")
    cut(write_video(folder.parent / "long.avi", kind, 200), folder / "b2.avi", 0.7)
    frames = make(folder, validation=0.0, test=0.0).split("train").source.frames
    assert np.array_equal(frames, clean)


def test_too_many_bad_files_are_refused_with_their_names(folder, capfd):
    (folder / "x.mp4").write_bytes(b"")
    write_sound(folder / "y.mp4")
    with pytest.raises(UserError, match=r"x\.mp4.* is empty.*y\.mp4.* no video stream") as caught:
        make(folder).prepare()
    assert "\n" not in str(caught.value)
    assert not capfd.readouterr().err
    assert not list((folder.parent / "cache").rglob("*.npy"))


def test_a_variable_rate_is_brought_to_a_constant_one(tmp_path):
    stamps = [0, 10, 20, 60, 70, 80, 90, 200]
    path = write_video(tmp_path / "v.mkv", Kind("", "ffv1", "bgr0", stamps=stamps), 8)
    every = np.stack(list(decode(path, Fit(24))))
    data = make(path, fps=10.0, frames=20, validation=0.0, test=0.0)
    frames = data.split("train").batch([0])["frames"][0].numpy()
    seen = [0, 1, 2, 2, 2, 2, 3, 4, 5, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6]
    assert np.array_equal(frames, every[seen])
    assert data.statistics()["fps"] == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 60}, "no clip of 60 frames at stride 1 .* longest piece has"),
        ({"frames": 1}, "data.init_args.frames is 1"),
        ({"stride": 0}, "data.init_args.stride is 0"),
        ({"size": 3}, "data.init_args.size is 3"),
        ({"hop": -1}, "data.init_args.hop is -1"),
        ({"windows": 2}, "data.init_args.windows is 2"),
        ({"limit": -1}, "data.init_args.limit is -1"),
        ({"validation": 0.6, "test": 0.5}, "sum to less than 1"),
    ],
)
def test_arguments_that_make_no_clips_get_one_line(folder, options, message):
    with pytest.raises(UserError, match=message):
        make(folder, **options).split("train")


def test_a_part_that_is_too_short_says_the_ways_out(folder):
    with pytest.raises(UserError, match=r"longest piece has .* lower .* set data\.init_args\.validation to 0"):
        make(folder, limit=1, frames=20, validation=0.1, test=0.0).split("validation")


def test_folders_without_videos_get_one_line(tmp_path):
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "none"))):
        make(tmp_path / "none").prepare()
    with pytest.raises(UserError, match="holds no video"):
        make(tmp_path).prepare()
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.mp4' is empty"):
        make(tmp_path).prepare()
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_a_broken_cache_gets_one_line(folder):
    mapped = make(folder).split("train").source
    (mapped.folder / "frames.npy").write_bytes(b"")
    with pytest.raises(UserError, match="delete the folder"):
        MappedFrames(mapped.folder)


def test_statistics(folder):
    statistics = make(folder, stride=2, limit=4, terms="ours", validation=0.25, test=0.25).statistics()
    assert statistics["size"] == 24
    assert statistics["channels"] == 3
    assert statistics["fps"] == 5
    assert statistics["licence"] == "ours"
    assert statistics["videos"] == {"train": 2, "validation": 1, "test": 1}
    assert statistics["video_frames"] == 107
    assert statistics["actions"] == 0


def test_starts_of_clips():
    video, first = clip_starts(np.array([10, 3, 7]), frames=3, stride=2, hop=2)
    assert list(zip(video.tolist(), first.tolist(), strict=True)) == [(0, 0), (0, 2), (0, 4), (2, 0), (2, 2)]
    video, first = clip_starts(np.array([10, 4]), frames=3, stride=2, hop=0)
    assert list(zip(video.tolist(), first.tolist(), strict=True)) == [(0, 0), (0, 5)]
