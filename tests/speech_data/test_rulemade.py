from __future__ import annotations

from pathlib import Path

import pytest
import torch

from domains.speech.data.rulemade import RuleMade, token_starts
from domains.speech.data.sentences import sentences
from flowkit.errors import UserError

pytest.importorskip("espeakng_loader")
from domains.speech.data.espeak import Spoken, speak


def test_sentences_are_a_function_of_the_seed() -> None:
    first = sentences(300)
    assert first == sentences(300)
    assert first[:40] == sentences(40)
    assert len(set(first)) == 300
    assert not set(first[:50]) <= set(sentences(300, seed=1))
    assert all(text[0].isupper() and text[-1] in ".?!" and "{" not in text for text in first)


def test_speech_has_phoneme_times() -> None:
    spoken = speak("The old sailor, quietly, counted twelve boats.", "en-us+f3")
    assert spoken.sample_rate == 22050
    assert 2.0 < spoken.wave.numel() / spoken.sample_rate < 4.0
    assert spoken.wave.abs().max() > 0.1
    assert "".join(spoken.phonemes).startswith("ðɪˈoʊldsˈeɪlɚ")
    assert list(spoken.starts) == sorted(spoken.starts)
    assert sum(spoken.durations()) == pytest.approx(
        (spoken.wave.numel() - spoken.starts[0]) / spoken.sample_rate, abs=1e-9
    )
    # The pause at the comma is quiet, the vowel before it is not: times and samples belong together.
    pause = spoken.phonemes.index("", 6)
    level = [
        spoken.wave[a:b].square().mean() for a, b in zip(spoken.starts, spoken.starts[1:], strict=False) if b > a + 50
    ]
    quiet = spoken.wave[spoken.starts[pause] : spoken.starts[pause + 2]].square().mean()
    assert quiet < 0.1 * torch.stack(level).mean()


def test_speech_is_deterministic_and_voices_differ() -> None:
    first, other = speak("Good morning.", "en-us+f3"), speak("Good morning.", "en-us+m3")
    assert torch.equal(first.wave, speak("Good morning.", "en-us+f3").wave)
    assert first.wave.shape != other.wave.shape or not torch.equal(first.wave, other.wave)
    assert speak("Good morning.", "en-us+f3", rate=300).wave.numel() < 0.8 * first.wave.numel()


@pytest.mark.parametrize(
    ("voice", "message"),
    [("en-uss+f3", "no voice 'en-uss\\+f3': did you mean 'en-us'"), ("en-us+f33", "no variant 'f33' of .*mean 'f3'")],
)
def test_unknown_voice(voice: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        speak("hello", voice)


@pytest.mark.parametrize("voice", ["fr-fr", "es-419+m2", "it", "ru+f1"])
def test_voices_of_other_languages(voice: str) -> None:
    assert speak("Roma, 1, 2, 3.", voice).wave.abs().max() > 0.1


def test_nothing_to_say() -> None:
    with pytest.raises(UserError, match="nothing that can be pronounced"):
        speak("...")


def test_rule_made_data_with_true_durations(tmp_path: Path) -> None:
    pytest.importorskip("phonemizer")
    data = RuleMade(24, ["en-us+f3", "en-us+m3"], blank=False, cache=str(tmp_path))
    part = data.split("train")
    assert data.statistics()["speakers"] == ["en-us+f3", "en-us+m3"]
    raw = part.batch(range(len(part)))
    known = raw["durations"][:, 0] >= 0
    assert known.float().mean() > 0.9
    sums = raw["durations"].clamp_min(0).sum(1)
    assert torch.equal(sums[known], raw["mel_lengths"][known])
    tokens = [symbol for symbol, row in zip(part.column("phonemes"), known, strict=True) if row]
    # Sounds last; a space between two words of one breath does not.
    vowel = torch.tensor([[c in "aɑæɐəɛɪiɔoʊu" for c in row.ljust(raw["tokens"].shape[1])] for row in tokens])
    space = torch.tensor([[c == " " for c in row] + [False] * (raw["tokens"].shape[1] - len(row)) for row in tokens])
    assert raw["durations"][known][vowel].float().mean() > 3
    assert raw["durations"][known][space].float().median() == 0
    with_blanks = RuleMade(24, ["en-us+f3", "en-us+m3"], cache=str(tmp_path)).split("train")
    durations = with_blanks.batch([0])["durations"]
    assert durations[0, ::2].eq(0).all()
    assert torch.equal(durations.sum(1), with_blanks.batch([0])["mel_lengths"])


def test_token_starts_know_their_limits() -> None:
    spoken = Spoken(torch.zeros(1000), 1000, ("h", "ˈaɪ", "", "j", "uː"), (0, 100, 400, 600, 800))
    assert token_starts("hˈaɪ, juː.", spoken) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.6, 0.8, 0.9, 1.0])
    assert token_starts("hˈɛ, juː.", spoken) is None
    assert token_starts("hˈaɪ, juːz", spoken) is None


def test_own_sentences_and_their_errors(tmp_path: Path) -> None:
    cache = str(tmp_path)
    data = RuleMade(["Bonjour tout le monde.", "Il fait beau."], ["fr-fr"], phonemes="characters", cache=cache)
    assert [r.language for r in data.recordings()] == ["fr", "fr"]
    with pytest.raises(UserError, match="built-in sentences are English"):
        RuleMade(3, ["fr-fr"], cache=cache).prepare()
    with pytest.raises(UserError, match="at least one voice"):
        RuleMade(3, [], cache=cache).prepare()
    with pytest.raises(UserError, match="at least one sentence"):
        RuleMade(0, cache=cache).prepare()
