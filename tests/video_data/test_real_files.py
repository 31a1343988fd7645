"""The rude examples of Debian's opencv-doc, where it is installed, or unpacked to $FLOWKIT_OPENCV_DOC."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from domains.video.data.folder import VideoFolder
from domains.video.data.index import index_video
from domains.video.data.reader import Fit, VideoReader, decode
from domains.video.data.street import DEBIAN, Pedestrians

FOLDER = Path(os.environ.get("FLOWKIT_OPENCV_DOC", Path(DEBIAN).parent))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (FOLDER / "vtest.avi").is_file(), reason="needs the videos of Debian's opencv-doc"),
]
#: Frames that exist, and whether they can be reached at random.
KNOWN = {
    "vtest.avi": (795, True),
    "tree.avi": (68, True),
    "Megamind.avi": (270, False),
    "Megamind_bugy.avi": (270, False),
}


@pytest.mark.parametrize("name", KNOWN)
def test_any_frame_is_that_of_a_decode_from_end_to_end(name, tmp_path):
    index, fit = index_video(FOLDER / name), Fit(96)
    assert (len(index), index.seekable) == KNOWN[name]
    every = np.stack(list(decode(FOLDER / name, fit)))
    assert len(every) == len(index)
    rng = np.random.default_rng(0)
    with VideoReader(index, fit, cache=str(tmp_path)) as reader:
        for first in rng.integers(0, len(index) - 16, 12).tolist():
            assert np.array_equal(reader.read(np.arange(first, first + 16)), every[first : first + 16])
        numbers = rng.permutation(len(index))[:25]
        assert np.array_equal(reader.read(numbers), every[numbers])
        for number in (0, len(index) - 1, 1):
            assert np.array_equal(reader.read([number])[0], every[number])


def test_times_of_tree_are_irregular_and_kept():
    index = index_video(FOLDER / "tree.avi")
    steps = np.diff(index.times)
    assert steps.min() > 0
    assert steps.max() > 2 * steps.min()


def test_files_and_memory_map_give_the_same_clips(tmp_path):
    options = {"frames": 8, "size": 48, "validation": 0.2, "test": 0.2, "cache": str(tmp_path)}
    mapped, direct = (VideoFolder(str(FOLDER), direct=direct, **options) for direct in (False, True))
    for name in ("train", "validation", "test"):
        one, other = mapped.split(name), direct.split(name)
        rows = np.random.default_rng(1).permutation(len(one))[:20]
        assert np.array_equal(one.batch(rows)["frames"], other.batch(rows)["frames"])
    assert not mapped.statistics()["skipped"]


def test_pedestrians_move_and_later_ones_are_not_learnt_from(tmp_path):
    data = Pedestrians(file=str(FOLDER / "vtest.avi"), cache=str(tmp_path))
    test = data.split("test")
    frames = test.batch(range(len(test)))["frames"].numpy().astype(float)
    assert (np.abs(frames - frames[:, :1]).max(axis=(1, 2, 3, 4)) > 30).mean() > 0.95
    assert data.split("train").starts.max() + 16 <= 500
    assert test.starts.min() >= 620
    whole = np.stack(list(decode(FOLDER / "vtest.avi", Fit(64, 128))))
    for row in (0, len(test) - 1):
        y, x = test.attributes([row])["corner"][0]
        begin = int(test.starts[row])
        assert np.array_equal(frames[row], whole[begin : begin + 16, :, y : y + 64, x : x + 64])
