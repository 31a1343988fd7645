"""Sound files: reading with clear errors, resampling, trimming, and writing atomically."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flowkit import atomic
from flowkit.errors import UserError, writing

#: Suffixes of raw G.722, which carries no header: always 16 kHz, mono, half a byte per sample.
_G722 = {".g722", ".722"}
_G722_RATE = 16_000

#: Where a table names a file without its suffix, these are tried in order.
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".g722")


def _install(package: str, what: str) -> UserError:
    return UserError(f'{what} needs the package {package}: pip install "flowkit-fm[speech]"')


def read(
    path: str | Path, sample_rate: int | None = None, *, resampling: bool = True
) -> tuple[Float[Tensor, " samples"], int]:
    """Read any sound file as mono float32 in [-1, 1] (channels are averaged).

    Args:
        path: wav, flac, ogg, opus, mp3 or raw G.722 (by suffix).
        sample_rate: wanted samples per second; None keeps the file's.
        resampling: whether another rate is converted; False makes it an error.

    Returns:
        The samples and their rate.

    Raises:
        UserError: the file is missing, empty, cut short, not audio, or of the wrong rate.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"audio file {str(path)!r} does not exist" + (" (it is a folder)" if path.is_dir() else ""))
    if path.stat().st_size == 0:
        raise UserError(f"audio file {str(path)!r} is empty (0 bytes)")
    samples, rate = _read_g722(path) if path.suffix.lower() in _G722 else _read_soundfile(path)
    if samples.size == 0:
        raise UserError(f"audio file {str(path)!r} holds no samples")
    if not np.isfinite(samples).all():
        raise UserError(f"audio file {str(path)!r} holds samples that are not finite numbers")
    wave = torch.from_numpy(samples)
    if sample_rate is None or rate == sample_rate:
        return wave, rate
    if not resampling:
        raise UserError(
            f"audio file {str(path)!r} has {rate} Hz where {sample_rate} Hz is expected; resampling: true converts it"
        )
    return resample(wave, rate, sample_rate), sample_rate


def _read_soundfile(path: Path) -> tuple[np.ndarray, int]:
    try:
        import soundfile
    except ImportError as error:
        raise _install("soundfile", "reading audio") from error
    _check_riff(path)
    try:
        with soundfile.SoundFile(path) as file:
            announced, rate = file.frames, file.samplerate
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        reason = str(error).strip().rstrip(".").rpartition(": ")[2]
        raise UserError(f"cannot read {str(path)!r} as audio: {reason}") from error
    if len(samples) < announced:
        raise UserError(
            f"audio file {str(path)!r} is cut short: {len(samples)} of {announced} announced samples could be read"
        )
    return samples.mean(1) if samples.shape[1] > 1 else samples[:, 0], rate


def _check_riff(path: Path) -> None:
    """Raise for a RIFF file whose data chunk promises more than the file has: libsndfile reads such files silently."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
            return
        position = 12
        while position + 8 <= size:
            file.seek(position)
            chunk = file.read(8)
            length = int.from_bytes(chunk[4:8], "little")
            if chunk[:4] == b"data":
                # 0 and the largest value mean "unknown" (streams).
                if length not in (0, 0xFFFFFFFF) and position + 8 + length > size:
                    raise UserError(
                        f"audio file {str(path)!r} is cut short: its header promises {length} bytes of sound, "
                        f"{max(size - position - 8, 0)} are there"
                    )
                return
            position += 8 + length + (length & 1)
    raise UserError(f"audio file {str(path)!r} is cut short: it ends before its sound begins")


def _read_g722(path: Path) -> tuple[np.ndarray, int]:
    try:
        import av
        from av.error import FFmpegError
    except ImportError as error:
        raise _install("av", "reading G.722") from error
    try:
        with av.open(str(path), format="g722") as container:
            frames = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    except (FFmpegError, IndexError) as error:
        raise UserError(f"cannot read {str(path)!r} as G.722 audio: {error}") from error
    samples = np.concatenate(frames) if frames else np.zeros(0, np.int16)
    return samples.astype(np.float32) / 32768.0, _G722_RATE


@lru_cache(maxsize=8)
def _resampler(source: int, target: int) -> torch.nn.Module:
    from torchaudio.transforms import Resample

    return Resample(source, target, lowpass_filter_width=32, rolloff=0.945)


def resample(wave: Float[Tensor, "*b samples"], source: int, target: int) -> Float[Tensor, "*b resampled"]:
    """Band-limited conversion from ``source`` to ``target`` samples per second."""
    return wave if source == target else _resampler(source, target)(wave)


def trim(
    wave: Float[Tensor, " samples"], sample_rate: int, *, range_db: float = 40.0, margin: float = 0.05
) -> Float[Tensor, " kept"]:
    """Cut silence at both ends: keep from the first to the last frame within ``range_db`` of the loudest one.

    Frames of 25 ms every 10 ms; ``margin`` seconds stay on both sides. Silence stays as it is.
    """
    size, hop = max(1, round(0.025 * sample_rate)), max(1, round(0.010 * sample_rate))
    if wave.numel() < size:
        return wave
    power = wave.unfold(0, size, hop).square().mean(1)
    loud = torch.nonzero(power > power.max() * 10 ** (-range_db / 10)).flatten()
    if loud.numel() == 0:
        return wave
    first, last = int(loud[0]) * hop, int(loud[-1]) * hop + size
    extra = round(margin * sample_rate)
    return wave[max(0, first - extra) : last + extra]


def normalise_peak(wave: Float[Tensor, " samples"], peak: float = 0.95) -> Float[Tensor, " samples"]:
    """Scale so that the largest absolute sample is ``peak``; silence stays."""
    largest = float(wave.abs().max()) if wave.numel() else 0.0
    return wave * (peak / largest) if largest > 0 else wave


def write(path: str | Path, wave: Float[Tensor, " samples"], sample_rate: int, *, subtype: str = "PCM_16") -> Path:
    """Write mono samples in [-1, 1] (clipped) as wav or flac, by suffix: under a temporary name, then renamed.

    Args:
        path: where to; its folder is made.
        wave: the samples.
        sample_rate: samples per second.
        subtype: PCM_16 or PCM_24.

    Raises:
        UserError: the folder cannot be written, the disk is full, or the suffix is unknown.
    """
    path = Path(path)
    if path.suffix.lower() not in (".wav", ".flac"):
        raise UserError(f"cannot write audio as {path.name!r}: the name must end in .wav or .flac")
    samples = wave.detach().to("cpu", torch.float32).clamp(-1.0, 1.0).numpy()
    with writing(path):
        atomic.write(path, lambda temporary: _write_samples(temporary, samples, sample_rate, subtype))
    return path


def _write_samples(path: Path, samples: np.ndarray, sample_rate: int, subtype: str) -> None:
    try:
        import soundfile
    except ImportError:
        # The standard library writes what every player reads, so speaking needs no extra package.
        if path.suffix.lower() != ".wav" or subtype != "PCM_16":
            raise _install("soundfile", f"writing {subtype} audio") from None
        import wave as riff

        with riff.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(sample_rate)
            file.writeframes((samples * 32767.0).round().astype("<i2").tobytes())
        return
    try:
        # Through memory, because the library hides the system's reason when it cannot write a file.
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, sample_rate, format=path.suffix[1:].upper(), subtype=subtype)
    except soundfile.SoundFileError as error:
        raise UserError(f"cannot write {subtype} audio: {str(error).rstrip('.')}") from error
    path.write_bytes(buffer.getbuffer())
