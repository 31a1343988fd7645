from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from domains.speech import audio
from flowkit.errors import UserError

RATE = 16_000


def tone(seconds: float = 0.5, frequency: float = 440.0, rate: int = RATE) -> torch.Tensor:
    return 0.5 * torch.sin(2 * torch.pi * frequency * torch.arange(round(seconds * rate)) / rate)


@pytest.mark.parametrize(("name", "subtype", "step"), [("a.wav", "PCM_16", 2**-15), ("b.flac", "PCM_24", 2**-22)])
def test_write_and_read(tmp_path: Path, name: str, subtype: str, step: float) -> None:
    path = audio.write(tmp_path / "new" / name, tone(), RATE, subtype=subtype)
    wave, rate = audio.read(path)
    assert rate == RATE
    assert (wave - tone()).abs().max() <= 1.01 * step
    assert [file.name for file in path.parent.iterdir()] == [name], "no temporary file stays"


def test_write_clips_and_is_readable_by_others(tmp_path: Path) -> None:
    path = audio.write(tmp_path / "loud.wav", 3 * tone(), RATE)
    assert audio.read(path)[0].abs().max() <= 1.0
    assert path.stat().st_mode & 0o444 == 0o444 & ~_umask()


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_channels_are_averaged(tmp_path: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "stereo.wav", np.stack([tone().numpy(), np.zeros(8000)], 1), RATE)
    assert torch.allclose(audio.read(tmp_path / "stereo.wav")[0], tone() / 2, atol=1e-4)


def test_resampling_keeps_a_tone(tmp_path: Path) -> None:
    path = audio.write(tmp_path / "tone.wav", tone(rate=22050), 22050)
    wave, rate = audio.read(path, RATE)
    assert rate == RATE
    assert wave.numel() == 8000
    middle = slice(1000, 7000)
    assert (wave[middle] - tone()[middle]).abs().max() < 2e-3
    with pytest.raises(UserError, match=r"tone\.wav' has 22050 Hz where 16000 Hz is expected"):
        audio.read(path, RATE, resampling=False)


def test_g722(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "tone.g722"
    with av.open(str(path), "w", format="g722") as container:
        stream = container.add_stream("g722", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray((tone().numpy() * 32767).astype(np.int16)[None], "s16", "mono")
        frame.rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    wave, rate = audio.read(path)
    assert rate == RATE
    assert wave.numel() == 2 * path.stat().st_size
    spectrum = torch.fft.rfft(wave * torch.hann_window(wave.numel())).abs()
    assert abs(int(spectrum.argmax()) * RATE / wave.numel() - 440) < 4


@pytest.mark.parametrize("content", [b"", b"hello, I am no sound at all", bytes(300)])
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_what_is_not_audio_is_named(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"broken{suffix}") as caught:
        audio.read(path)
    assert "\n" not in str(caught.value)
    if not content:
        assert "empty" in str(caught.value)


def test_empty_g722_is_named(tmp_path: Path) -> None:
    (tmp_path / "none.g722").touch()
    with pytest.raises(UserError, match=r"none\.g722' is empty"):
        audio.read(tmp_path / "none.g722")


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'/nowhere/x\.wav' does not exist"):
        audio.read("/nowhere/x.wav")
    with pytest.raises(UserError, match="it is a folder"):
        audio.read(tmp_path)


@pytest.mark.parametrize("kept", [10, 30, 44, 60, 9000])
def test_truncated_wav_is_named(tmp_path: Path, kept: int) -> None:
    path = audio.write(tmp_path / "cut.wav", tone(), RATE)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"cut\.wav"):
        audio.read(path)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_flac_is_named(tmp_path: Path, share: float) -> None:
    path = audio.write(tmp_path / "cut.flac", tone(2.0), RATE)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"cut\.flac"):
        audio.read(path)


def test_not_a_number_is_named(tmp_path: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "nan.wav", np.full(1000, np.nan), RATE, subtype="FLOAT")
    with pytest.raises(UserError, match="not finite"):
        audio.read(tmp_path / "nan.wav")


def test_headers_without_a_length_are_read(tmp_path: Path) -> None:
    path = audio.write(tmp_path / "stream.wav", tone(), RATE)
    content = bytearray(path.read_bytes())
    content[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert audio.read(path)[0].numel() == 8000


def test_write_errors_are_one_line_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.wav or \.flac"):
        audio.write(tmp_path / "a.txt", tone(), RATE)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        audio.write(tmp_path / "file" / "a.wav", tone(), RATE)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = audio.write(tmp_path / "a.wav", tone(), RATE)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(UserError, match="File too large"):
            audio.write(path, tone(2.0), RATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.wav"]


def test_trim_keeps_what_sounds_and_a_margin() -> None:
    silence = torch.zeros(RATE)
    wave = torch.cat([silence, tone(1.0), silence])
    kept = audio.trim(wave, RATE)
    assert 1.08 <= kept.numel() / RATE <= 1.16
    assert torch.equal(audio.trim(tone(), RATE), tone())
    assert torch.equal(audio.trim(silence, RATE), silence)
    quiet = torch.cat([0.02 * tone(1.0), tone(1.0)])  # 34 dB under the rest: stays
    assert audio.trim(quiet, RATE).numel() == quiet.numel()
    assert audio.trim(torch.cat([0.005 * tone(1.0), tone(1.0)]), RATE).numel() < 1.1 * RATE  # 46 dB: goes


def test_normalise_peak() -> None:
    assert audio.normalise_peak(tone() / 3).abs().max() == pytest.approx(0.95)
    assert torch.equal(audio.normalise_peak(torch.zeros(5)), torch.zeros(5))
