"""Pictures, sounds and texts: files whole or not at all, and TensorBoard."""

from __future__ import annotations

import resource
import wave
from pathlib import Path

import numpy as np
import pytest

from flowkit.errors import UserError
from flowkit.present import Picture, Sound, Text


def test_a_sound_is_what_was_written(tmp_path: Path) -> None:
    samples = np.array([0.0, 0.5, -0.5, 2.0, -2.0, np.nan])
    path = Sound(samples, 8000).save(tmp_path / "sub" / "tone")
    assert path == tmp_path / "sub" / "tone.wav"
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8000, 1, 2)
        pcm = np.frombuffer(file.readframes(6), "<i2")
    assert pcm.tolist() == [0, 16384, -16384, 32767, -32767, 0]


def test_a_picture_comes_back(tmp_path: Path) -> None:
    from matplotlib.image import imread

    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    path = Picture(pixels).save(tmp_path / "p")
    assert np.array_equal((imread(path)[..., :3] * 255).round().astype(np.uint8), pixels)
    assert Picture(pixels).save(tmp_path / "p.png") == path
    with pytest.raises(ValueError, match="uint8"):
        Picture(pixels.astype(np.float32))
    with pytest.raises(ValueError, match="row of floats"):
        Sound(np.zeros((2, 5)), 8000)


def test_a_text_ends_with_a_newline(tmp_path: Path) -> None:
    assert Text("grüße").save(tmp_path / "t").read_text(encoding="utf-8") == "grüße\n"


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    Text("old").save(target)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # As on a full disk: what is written beyond the limit fails.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(UserError, match=r"cannot write .*a.txt: File too large"):
            Text("long " * 1000).save(target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert target.read_text() == "old\n"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    with pytest.raises(UserError, match="cannot write"):
        Text("x").save(target / "below")


def test_tensorboard_takes_all_three(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        for tag, item in (
            ("picture", Picture(np.zeros((4, 4, 3), np.uint8))),
            ("sound", Sound(np.zeros(100), 8000)),
            ("text", Text("hello")),
        ):
            item.to_tensorboard(writer, f"samples/{tag}", 3)
    data = next(tmp_path.glob("events*")).read_bytes()
    for tag in (b"samples/picture", b"samples/sound", b"samples/text"):
        assert tag in data
