from __future__ import annotations

from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from made_videos import H264, KINDS, Kind, cut, damage, pictures, turn, write_sound, write_swapped, write_video

from domains.video.data.index import index_video
from domains.video.data.reader import Fit, VideoReader, decode
from flowkit.errors import UserError


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_any_frame_is_that_of_a_decode_from_end_to_end(kind, tmp_path):
    path = write_video(tmp_path / kind.name, kind)
    index = index_video(path)
    every = np.stack(list(decode(path)))
    assert len(index) == len(every) == 60
    assert every.shape[1:] == (3, *kind.size)
    assert index.seekable
    rng = np.random.default_rng(0)
    with VideoReader(index) as reader:
        for first in rng.integers(0, 52, 12):
            assert np.array_equal(reader.read(np.arange(first, first + 8)), every[first : first + 8])
        for number in rng.permutation(60):
            assert np.array_equal(reader.read([number])[0], every[number]), number
        mixed = [59, 0, 31, 31, 2, 58]
        assert np.array_equal(reader.read(mixed), every[mixed])


@pytest.mark.parametrize("name", ["variable.mkv", "variable.mp4"])
def test_times_are_those_that_were_written(name, tmp_path):
    kind = next(kind for kind in KINDS if kind.name == name)
    assert kind.stamps is not None
    times = np.asarray(kind.stamps[:60]) / 100
    index = index_video(write_video(tmp_path / name, kind))
    np.testing.assert_allclose(index.times, times - times[0], atol=1e-3)
    assert index.fps == pytest.approx(59 / (times[-1] - times[0]), rel=1e-3)


@pytest.mark.parametrize("name", ["lossless.mkv", "intra.mp4"])
def test_lossless_video_gives_what_was_written(name, tmp_path):
    kind = next(kind for kind in KINDS if kind.name == name)
    path = write_video(tmp_path / name, kind, 5)
    assert np.array_equal(np.stack(list(decode(path))).transpose(0, 2, 3, 1), pictures(5, *kind.size))


def test_fitted_frames_are_equal_at_random_and_centred(tmp_path):
    path = write_video(tmp_path / "a.mp4", H264)
    fit = Fit(24)
    every = np.stack(list(decode(path, fit)))
    assert every.shape == (60, 3, 24, 24)
    numbers = np.random.default_rng(1).permutation(60)
    assert np.array_equal(VideoReader(index_video(path), fit).read(numbers), every[numbers])
    # 48 x 64 is halved to 24 x 32, of which 4 columns fall away at each side.
    halved = np.stack(list(decode(path))).astype(float).reshape(60, 3, 24, 2, 32, 2).mean(axis=(3, 5))
    errors = [np.abs(every - halved[..., first : first + 24]).mean() for first in range(9)]
    assert np.argmin(errors) == 4
    assert errors[4] < 0.6 * min(errors[3], errors[5])


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_upright_films_of_telephones_stand_upright(quarters, tmp_path):
    lying = write_video(tmp_path / "lying.mp4", H264, 20)
    path = turn(lying, tmp_path / "upright.mp4", quarters)
    index = index_video(path)
    assert (index.width, index.height) == ((48, 64) if quarters % 2 else (64, 48))
    for fit in (Fit(), Fit(24, 32), Fit(24)):
        whole = np.stack(list(decode(path, fit)))
        assert np.array_equal(whole, np.rot90(np.stack(list(decode(lying, fit))), quarters, axes=(2, 3)))
        with VideoReader(index, fit) as reader:
            assert np.array_equal(reader.read([17, 3, 19]), whole[[17, 3, 19]])


def test_stamps_that_step_back_are_read_from_the_start(tmp_path):
    path = write_swapped(tmp_path / "swapped.mkv")
    index = index_video(path)
    assert not index.seekable
    every = np.stack(list(decode(path)))
    reader = VideoReader(index, cache=str(tmp_path / "cache"))
    assert np.array_equal(reader.read([7, 3, 3, 0]), every[[7, 3, 3, 0]])
    folders = [path.name for path in (tmp_path / "cache" / "video").iterdir()]
    assert len(folders) == 1
    assert not folders[0].startswith(".")


def test_a_stream_without_stamps_is_read_from_the_start(tmp_path):
    path = write_video(tmp_path / "raw.h264", H264)
    index = index_video(path)
    assert not index.seekable
    every = np.stack(list(decode(path)))
    assert np.array_equal(VideoReader(index, cache=str(tmp_path / "cache")).read([59, 1]), every[[59, 1]])


def _bad(name, folder):
    good = write_video(folder / "good.mp4", H264)
    kind = next(kind for kind in KINDS if kind.name == "mpeg4.avi")
    avi = write_video(folder / "good.avi", kind, 200)
    path = folder / name
    if name == "empty.mp4":
        path.write_bytes(b"")
    elif name == "text.mp4":
        path.write_text("no video\n" * 50)
    elif name == "sound.mp4":
        write_sound(path)
    elif name == "folder.mp4":
        path.mkdir()
    elif name.startswith("cut"):
        cut(avi if name.endswith("avi") else good, path, 0.601)
    elif name.startswith("damaged"):
        damage(avi if name.endswith("avi") else good, path)
    return path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty.mp4", "is empty"),
        ("text.mp4", "Invalid data"),
        ("sound.mp4", "no video stream"),
        ("folder.mp4", "directory"),
        ("missing.mp4", "No such file"),
        ("cut.mp4", "Invalid data"),
        ("damaged.mp4", "Invalid data"),
        ("cut.avi", "Invalid data|not whole"),
        ("damaged.avi", "Invalid data|not whole"),
    ],
)
def test_bad_files_get_one_line_with_their_name(name, reason, tmp_path):
    path = _bad(name, tmp_path)
    with pytest.raises(UserError, match=reason) as caught:  # noqa: PT012
        index_video(path)
        list(decode(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/proc/self/fdinfo").is_dir(), reason="needs /proc")
def test_a_forked_process_does_not_move_its_parents_place_in_the_file(tmp_path):
    # Processes that share a place read each other's bytes: some frames were wrong, without an error.
    # The file is larger than what is read ahead.
    path = write_video(tmp_path / "a.avi", Kind("", "rawvideo", "bgr24", size=(96, 96)))
    every = np.stack(list(decode(path)))

    def place() -> str:
        (number,) = (fd.name for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink() and fd.readlink() == path)
        return Path(f"/proc/self/fdinfo/{number}").read_text().splitlines()[0]

    with VideoReader(index_video(path)) as reader:
        reader.read([0])
        before = place()
        context = get_context("fork")
        received, sent = context.Pipe(duplex=False)
        child = context.Process(target=lambda: sent.send(reader.read([59, 20])))
        child.start()
        assert np.array_equal(received.recv(), every[[59, 20]])
        child.join()
        assert place() == before
        assert np.array_equal(reader.read([30, 1]), every[[30, 1]])


def test_a_changed_file_is_an_error_and_not_other_frames(tmp_path):
    path = write_video(tmp_path / "a.mp4", H264)
    index = index_video(path)
    write_video(path, H264, 20)
    with pytest.raises(UserError, match="was changed"):
        VideoReader(index).read([50])
    with pytest.raises(IndexError):
        VideoReader(index).read([60])
