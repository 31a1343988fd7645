from __future__ import annotations

import pickle
import threading
from itertools import islice

import numpy as np
import pytest
import torch
from made_videos import H264, KINDS, Kind, cut, write_swapped, write_video

from domains.video.data.clips import SPLITS
from domains.video.data.direct import OPEN
from domains.video.data.folder import VideoFolder
from domains.video.data.layouts import BAIR
from flowkit.errors import UserError
from flowkit.train.loader import Loader


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "videos"
    root.mkdir()
    for number, kind in enumerate([H264, *(kind for kind in KINDS if kind.name in ("mpeg2.ts", "lossless.mkv"))]):
        write_video(root / f"{number}-{kind.name}", kind, 30, seed=number)
    write_swapped(root / "swapped.mkv")
    return root


def make(root, **options):
    return VideoFolder(str(root), cache=str(root.parent / "cache"), **{"frames": 4, "size": 24, **options})


@pytest.mark.parametrize("options", [{}, {"fps": 7.0, "stride": 2, "hop": 3}, {"flips": True, "validation": 0.3}])
def test_clips_of_files_are_those_of_the_memory_map(folder, options):
    mapped, direct = make(folder, **options), make(folder, direct=True, **options)
    for name in SPLITS:
        one, other = mapped.split(name), direct.split(name)
        assert len(one) == len(other)
        rows = np.random.default_rng(0).permutation(len(one))[:40]
        for part in (rows[:20], rows[20:]):
            if len(part):
                assert torch.equal(one.batch(part)["frames"], other.batch(part)["frames"])
        assert np.array_equal(one.attributes(rows)["video"], other.attributes(rows)["video"])
    assert {k: v for k, v in mapped.statistics().items() if k != "folder"} == {
        k: v for k, v in direct.statistics().items() if k != "folder"
    }
    assert not list(direct.mapped.folder.glob("frames*"))


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_threads_do_not_matter(folder, threads):
    train = make(folder, direct=True).split("train")
    expected = make(folder).split("train")
    for share in islice(Loader(train, batch=8, seed=3, threads=threads), 5):
        part = share.parts[0]
        assert torch.equal(part.raw["frames"], expected.batch(part.indices)["frames"])


def test_few_files_are_open_at_once(tmp_path):
    root = tmp_path / "videos"
    root.mkdir()
    for number in range(OPEN + 4):
        write_video(root / f"{number:02d}.mkv", Kind("", "ffv1", "bgr0"), 6, seed=number)
    samples = make(root, direct=True, frames=3, validation=0.0, test=0.0).split("train")
    opened = []

    def read():
        frames = samples.batch(range(len(samples)))["frames"]
        opened.append([reader._open is not None for reader in samples.source._own.readers.values()])
        assert torch.equal(samples.batch([0])["frames"][0], frames[0])

    reading = [threading.Thread(target=read) for _ in range(2)]
    for thread in reading:
        thread.start()
    for thread in reading:
        thread.join()
    assert opened == [[True] * OPEN] * 2


def test_clips_travel_to_another_process(folder):
    train = make(folder, direct=True).split("train")
    before = train.batch([3])["frames"]
    content = pickle.dumps(train)
    assert len(content) < 20_000
    assert torch.equal(pickle.loads(content).batch([3])["frames"], before)


def test_bad_files_are_left_out_and_windows_refused(folder, capfd):
    cut(folder / "0-h264.mp4", folder / "broken.mp4", 0.7)
    data = make(folder, direct=True, validation=0.0, test=0.0)
    assert list(data.statistics()["skipped"]) == ["broken.mp4"]
    assert "broken.mp4" in capfd.readouterr().err
    with pytest.raises(UserError, match="direct is true: squares"):
        make(folder, direct=True, window=32).prepare()
    (folder / "train").mkdir()
    with pytest.raises(UserError, match="direct is true: BAIR"):
        BAIR(str(folder), direct=True).prepare()
    train = data.split("train")
    (folder / "0-h264.mp4").unlink()
    with pytest.raises(UserError, match=r"0-h264\.mp4"):
        train.batch(range(len(train)))
