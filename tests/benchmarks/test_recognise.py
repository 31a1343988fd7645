"""The recogniser on speech that is made by rule, so that nothing must be fetched."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.speech.measures import Clip, Judge
from benchmarks.speech.recognise import RATE, AnswerCache, ClosedSet, OpenVocabulary, dictionary, recogniser_input

pytest.importorskip("pocketsphinx")
pytest.importorskip("espeakng_loader")

SENTENCES = [
    "please leave a message after the tone", "the number you have dialed is not in service", "press star to cancel",
    "good morning everybody", "there are seven new messages", "we will meet again tomorrow evening",
]  # fmt: skip


@pytest.fixture(scope="module")
def spoken() -> dict[str, np.ndarray]:
    from domains.speech.audio import resample
    from domains.speech.data.espeak import speak

    made = {text: speak(text, rate=140) for text in SENTENCES[:3]}
    return {text: resample(speech.wave, speech.sample_rate, RATE).numpy() for text, speech in made.items()}


def test_input_has_silence_and_a_trace_of_noise_that_the_samples_set():
    audio = np.linspace(-0.5, 0.5, RATE, dtype=np.float32)
    samples = recogniser_input(audio)
    assert samples.dtype == np.int16
    assert len(samples) == RATE + 2 * 3200
    assert 0 < np.abs(samples[:3200]).max() < 30
    assert np.array_equal(samples, recogniser_input(audio))
    assert not np.array_equal(samples, recogniser_input(audio, 1))


def test_the_dictionary_has_no_numbered_pronunciations():
    known = dictionary()
    assert {"please", "the", "dialed"} <= known
    assert not any("(" in word for word in known)


def test_the_closed_set_tells_sentences_apart_and_not_backwards(spoken):
    closed = ClosedSet([text.split() for text in SENTENCES], AnswerCache(None))
    assert [closed(audio) for audio in spoken.values()] == list(spoken)
    backwards = [closed(np.ascontiguousarray(audio[::-1])) for audio in spoken.values()]
    assert sum(heard == text for heard, text in zip(backwards, spoken, strict=True)) <= 1


def test_the_judge_counts_hits(spoken):
    judge = Judge([text.split() for text in SENTENCES], None)
    clips = [Clip(text, text.split(), audio) for text, audio in spoken.items()]
    assert judge.hits(clips) == 3
    swapped = [Clip("x", SENTENCES[5].split(), audio) for audio in spoken.values()]
    assert judge.hits(swapped) == 0


def test_answers_are_kept_and_found_again(tmp_path, spoken):
    text, audio = next(iter(spoken.items()))
    first = OpenVocabulary(AnswerCache(tmp_path))
    heard = first(audio)
    assert set(heard.split()) & set(text.split())
    (file,) = tmp_path.glob("*.json")
    file.write_text('"something else"')
    assert OpenVocabulary(AnswerCache(tmp_path))(audio) == "something else"
    assert OpenVocabulary(AnswerCache(None))(audio) == heard
