"""Speech made by rule: any number of sentences with exact phoneme times, on any system, without a download.

For trying things out, for tests of durations and for pre-training; it is no real speech and never belongs into a
reported figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor

from domains.speech import audio
from domains.speech.data.corpus import Recording, SpeechData
from domains.speech.data.espeak import Spoken, speak
from domains.speech.data.sentences import sentences
from domains.speech.features import MelConfig
from domains.speech.phonemes import LANGUAGES, PhonemeKind, SymbolTable
from flowkit.errors import UserError

_SHORT = {voice: name for name, voice in LANGUAGES.items()}


class RuleMade(SpeechData):
    """Sentences spoken by espeak-ng's own synthesiser (22,050 Hz), the voices in turn.

    Batches carry ``durations`` (b, N) besides the rest: true frames per token, 0 for blanks; -1 throughout where the
    phonemes of the synthesiser and of the phonemiser differ.

    Args:
        sentences: how many sentences of the built-in English vocabulary, or texts of one's own.
        voices: voices of espeak, each a speaker; sentence i is spoken by voice i modulo their number.
        rate: words per minute.
        seed: another seed gives other sentences.
        mel: settings of the mels.
        minimum: shorter recordings (seconds) are dropped.
        maximum: longer recordings (seconds) are dropped.
        phonemes: ``espeak`` or ``characters``.
        blank: put token 0 between and around all tokens.
        cache: where prepared folders go; empty means ``$FLOWKIT_CACHE`` or the user's cache folder.
    """

    licence = "no recording: synthesised by espeak-ng (GPL-3 program; its output is not covered)"
    attribution = ("espeak-ng",)

    def __init__(
        self,
        sentences: int | list[str] = 400,
        voices: list[str] = ["en-us+f3"],  # noqa: B006 (never changed)
        *,
        rate: int = 175,
        seed: int = 0,
        mel: MelConfig = MelConfig(),  # noqa: B008 (frozen)
        minimum: float = 0.3,
        maximum: float = 30.0,
        phonemes: PhonemeKind = "espeak",
        blank: bool = True,
        cache: str = "",
    ) -> None:
        # No trimming: the phoneme times count from the first sample.
        super().__init__(
            mel=mel,
            minimum=minimum,
            maximum=maximum,
            trim=False,
            phonemes=phonemes,
            blank=blank,
            cache=cache,
        )
        self.sentences, self.voices, self.rate, self.seed = sentences, list(voices), rate, seed
        self._spoken: dict[str, Spoken] = {}

    def settings(self) -> dict[str, Any]:
        """See :class:`SpeechData`."""
        return {"sentences": self.sentences, "voices": self.voices, "rate": self.rate, "seed": self.seed}

    def texts(self) -> list[str]:
        """The texts, in order."""
        if not isinstance(self.sentences, int):
            return list(self.sentences)
        if self.sentences < 1:
            raise UserError(f"RuleMade needs at least one sentence, got sentences={self.sentences}")
        if any(not voice.startswith("en") for voice in self.voices):
            raise UserError(
                f"the built-in sentences are English and the voices are {self.voices}: give sentences as a list"
            )
        return sentences(self.sentences, self.seed)

    def recordings(self) -> Sequence[Recording]:
        """See :class:`SpeechData`."""
        if not self.voices:
            raise UserError("RuleMade needs at least one voice, for example en-us+f3")
        result = []
        for i, text in enumerate(self.texts()):
            voice = self.voices[i % len(self.voices)]
            base = voice.partition("+")[0]
            key = f"{i:06d}"
            result.append(Recording(key, text, partial(self._load, key, text, voice), voice, _SHORT.get(base, base)))
        return result

    def _load(self, key: str, text: str, voice: str) -> Tensor:
        spoken = speak(text, voice, rate=self.rate)
        self._spoken[key] = spoken
        return audio.resample(spoken.wave, spoken.sample_rate, self.sample_rate)

    def columns(self, recording: Recording, phonemes: str, table: SymbolTable, frames: int) -> Mapping[str, Any]:
        """The phonemes with their times in seconds, and frames per token."""
        spoken = self._spoken.pop(recording.key)
        times = [
            [name, round(start / spoken.sample_rate, 4), round(seconds, 4)]
            for name, start, seconds in zip(spoken.phonemes, spoken.starts, spoken.durations(), strict=True)
        ]
        symbols = table.decode(table.encode(phonemes))
        starts = token_starts(symbols, spoken)
        if starts is None:
            return {"times": times, "durations": None}
        rate = self.config.frame_rate
        edges = [0, *(min(frames, round(start * rate)) for start in starts[1:]), frames]
        return {"times": times, "durations": [b - a for a, b in pairwise(edges)]}


def token_starts(symbols: str, spoken: Spoken) -> list[float] | None:
    """Start in seconds of every symbol (phonemiser's spelling), or None where the two spellings differ.

    A phoneme of several symbols is shared out equally; spaces and punctuation begin where the sound before them ends.
    """
    starts: list[float] = []
    place = 0
    end = 0.0
    times = zip(spoken.phonemes, spoken.starts, spoken.durations(), strict=True)
    for name, first, seconds in times:
        begin = first / spoken.sample_rate
        if not name:
            continue
        while place < len(symbols) and symbols[place] != name[0]:
            if symbols[place].isalpha() or symbols[place] in "ˈˌ":
                return None
            starts.append(end if starts else 0.0)
            place += 1
        if symbols[place : place + len(name)] != name:
            return None
        starts += [begin + seconds * k / len(name) for k in range(len(name))]
        place += len(name)
        end = begin + seconds
    if any(symbol.isalpha() for symbol in symbols[place:]):
        return None
    return starts + [end] * (len(symbols) - place)
