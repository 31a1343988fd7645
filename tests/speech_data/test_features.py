from __future__ import annotations

import numpy as np
import pytest
import torch

from domains.speech.features import MelConfig, MelSpectrogram
from domains.speech.vocoder import GriffinLim
from flowkit.errors import UserError


def voice_like(seconds: float, rate: int, seed: int = 0) -> torch.Tensor:
    """A gliding buzz under formant-like weights, with pauses: something with harmonics, transients and silence."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(round(seconds * rate)) / rate
    pitch = 140 + 40 * torch.sin(2 * torch.pi * 0.7 * t)
    phase = 2 * torch.pi * torch.cumsum(pitch, 0) / rate
    wave = sum(
        torch.sin(k * phase) * np.exp(-(((k * 140 - 700) / 600) ** 2)) + 0.3 * torch.sin(k * phase) / k
        for k in range(1, 30)
    )
    wave = wave * (torch.sin(2 * torch.pi * 1.5 * t) > -0.6)
    return 0.4 * wave / wave.abs().max() + 0.002 * torch.randn(t.shape, generator=generator)


@pytest.mark.parametrize("config", [MelConfig(), MelConfig(sample_rate=16000), MelConfig(hop=200, bins=100, win=800)])
def test_mels_equal_librosa(config: MelConfig) -> None:
    import librosa

    wave = voice_like(1.3, config.sample_rate)
    padded = np.pad(wave.numpy().astype(np.float64), config.padding, mode="reflect")
    spectrum = librosa.stft(
        padded, n_fft=config.n_fft, hop_length=config.hop, win_length=config.win, window="hann", center=False
    )
    filters = librosa.filters.mel(
        sr=config.sample_rate, n_fft=config.n_fft, n_mels=config.bins, fmin=config.f_min, fmax=config.f_max
    )
    wanted = np.log(np.maximum(filters @ np.sqrt(np.abs(spectrum) ** 2 + 1e-9), config.floor))
    found = MelSpectrogram(config)(wave.unsqueeze(0))[0].numpy()
    assert found.shape == wanted.shape == (config.bins, wave.numel() // config.hop)
    assert np.abs(found - wanted).max() < 1e-4


def test_frames_are_samples_over_hop_and_silence_is_the_floor() -> None:
    transform = MelSpectrogram(MelConfig(sample_rate=16000, floor=1e-2))
    for samples in (1000, 1023, 1024, 5000):
        mel = transform(torch.zeros(2, samples))
        assert mel.shape == (2, 80, samples // 256)
        assert transform.config.frames(samples) == samples // 256
        assert torch.all(mel == np.log(np.float32(1e-2)))


def test_gradients_reach_the_waveform() -> None:
    wave = voice_like(0.2, 22050).unsqueeze(0).requires_grad_()
    MelSpectrogram()(wave).sum().backward()
    assert wave.grad is not None
    assert torch.isfinite(wave.grad).all()


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (MelConfig(sample_rate=8000), "f_max"),
        (MelConfig(hop=2048), "hop"),
        (MelConfig(hop=255), "even"),
        (MelConfig(floor=0.0), "positive"),
    ],
)
def test_contradictory_settings_are_named(config: MelConfig, word: str) -> None:
    with pytest.raises(UserError, match=word):
        MelSpectrogram(config)


def test_a_sound_shorter_than_its_reflection_is_an_error() -> None:
    with pytest.raises(UserError, match="384 samples"):
        MelSpectrogram()(torch.zeros(1, 384))


@pytest.mark.parametrize("config", [MelConfig(), MelConfig(sample_rate=16000, hop=200)])
def test_griffin_lim_round_trip(config: MelConfig) -> None:
    transform, wave = MelSpectrogram(config), voice_like(1.5, config.sample_rate).unsqueeze(0)
    mel = transform(wave)
    again = GriffinLim(config)(mel)
    assert again.shape == (1, mel.shape[2] * config.hop)
    before, after = transform.magnitude(wave), transform.magnitude(again)
    assert (transform(again) - mel).abs().mean() < 0.15
    assert (before - after).norm() / before.norm() < 0.25
    assert 0.9 < again.std() / wave.std() < 1.1
    # Sound stands where it stood: the envelopes of 20 ms agree, so the padding convention is undone exactly.
    power = [x[0, : again.shape[1]].unfold(0, 441, 441).square().mean(1).sqrt() for x in (wave, again)]
    assert torch.corrcoef(torch.stack(power))[0, 1] > 0.97


def test_griffin_lim_frees_magnitudes_to_some_use() -> None:
    config = MelConfig()
    mel = MelSpectrogram(config)(voice_like(1.0, 22050).unsqueeze(0))
    error = [(MelSpectrogram(config)(GriffinLim(config, settle=settle)(mel)) - mel).abs().mean() for settle in (10, 60)]
    assert error[0] < 0.6 * error[1]


def test_griffin_lim_is_deterministic_and_seeded() -> None:
    config = MelConfig(sample_rate=16000)
    mel = MelSpectrogram(config)(voice_like(0.5, 16000).unsqueeze(0))
    vocoder = GriffinLim(config, iterations=8)
    assert torch.equal(vocoder(mel), vocoder(mel))
    first, second, other = (vocoder(mel, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_griffin_lim_in_a_padded_batch() -> None:
    config = MelConfig(sample_rate=16000)
    mel = MelSpectrogram(config)(voice_like(1.0, 16000).unsqueeze(0))
    batch = torch.full((2, 80, mel.shape[2] + 40), float(np.log(1e-5)))
    batch[0, :, : mel.shape[2]] = mel[0]
    batch[1] = -4.0
    alone = GriffinLim(config)(mel)[0]
    padded = GriffinLim(config)(batch)[0, : alone.numel()]
    # A short-time transform forgets: what follows the end reaches back a few windows at most.
    assert (alone - padded)[:-8192].abs().max() < 2e-2 * alone.abs().max()


def test_griffin_lim_refuses_another_number_of_bins() -> None:
    with pytest.raises(UserError, match="80 mel bins and was given 100"):
        GriffinLim()(torch.zeros(1, 100, 10))
