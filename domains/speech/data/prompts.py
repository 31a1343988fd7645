"""Real recordings with transcripts, free and small: telephone prompts from Debian (five languages, four voices).

The packages ``asterisk-core-sounds-XX-g722`` (16 kHz) and ``asterisk-core-sounds-XX`` (texts) are fetched by name.
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from domains.speech import audio
from domains.speech.data.corpus import Recording, SpeechData
from domains.speech.data.debian import fetch, unpack
from domains.speech.features import MelConfig
from domains.speech.phonemes import PhonemeKind
from domains.speech.text import strip_fragment
from flowkit import atomic
from flowkit.caching import cache_root
from flowkit.errors import UserError, nearest


@dataclass(frozen=True)
class Voice:
    """Who speaks in a set, and under which licence the recordings are."""

    speaker: str
    licence: str


VOICES = {
    "en": Voice("Allison Smith", "CC-BY-SA-3.0"),
    "es": Voice("Allison Smith", "CC-BY-SA-3.0"),
    "fr": Voice("June Wallack", "CC-BY-SA-3.0"),
    "it": Voice("Carlo Flora", "CC-BY-3.0"),
    "ru": Voice("ivrvoice.ru", "CC-BY-3.0"),
}
_INSTEAD = "use the data source RuleMade, which needs no download, or Table with recordings of your own"
#: Not speech, or a text that is not what is said.
_DROPPED = {("ru", "is"), ("it", "confbridge-leave")}
_NOTE = "spy-iax2"


class Prompts(SpeechData):
    """Prompts of a telephone exchange, read by professional speakers (en, es, fr, it, ru; 16 kHz).

    Dropped: tones, silence and animals (texts in brackets), files without a text, the few wrong ones, and what is
    shorter or longer than asked. Transcripts repeat, so the split goes by the words
    (see :func:`domains.speech.text.split_of`).

    Args:
        language: one of en, es, fr, it, ru, or a list of them.
        mel: settings of the mels.
        minimum: shorter recordings (seconds, after trimming) are dropped.
        maximum: longer recordings (seconds, after trimming) are dropped.
        trim: cut silence at both ends.
        peak: scale every recording to this largest sample; 0 keeps the level.
        phonemes: ``espeak`` or ``characters``.
        blank: put token 0 between and around all tokens.
        cache: where packages and prepared folders go; empty means ``$FLOWKIT_CACHE`` or the user's cache folder.
    """

    def __init__(
        self,
        language: str | list[str] = "en",
        *,
        mel: MelConfig = MelConfig(sample_rate=16000),  # noqa: B008 (frozen)
        minimum: float = 0.3,
        maximum: float = 30.0,
        trim: bool = True,
        peak: float = 0.0,
        phonemes: PhonemeKind = "espeak",
        blank: bool = True,
        cache: str = "",
    ) -> None:
        super().__init__(
            mel=mel,
            minimum=minimum,
            maximum=maximum,
            trim=trim,
            peak=peak,
            phonemes=phonemes,
            blank=blank,
            cache=cache,
        )
        self.language = language

    @property
    def languages(self) -> list[str]:
        """The chosen languages, checked, in alphabetical order."""
        names = [self.language] if isinstance(self.language, str) else list(self.language)
        for name in names:
            if name not in VOICES:
                raise UserError(f"Prompts has no language {name!r}: {nearest(name, VOICES)}")
        if not names:
            raise UserError(f"Prompts needs at least one language: {nearest('', VOICES)}")
        return sorted(set(names))

    @property
    def licence(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Licence of the recordings; a voice trained on them carries it."""
        return ", ".join(sorted({VOICES[name].licence for name in self.languages}))

    @property
    def attribution(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Who must be named in a release."""
        return tuple(
            f"{VOICES[name].speaker} (asterisk-core-sounds-{name}, {VOICES[name].licence})" for name in self.languages
        )

    def settings(self) -> dict[str, Any]:
        """See :class:`SpeechData`."""
        return {"languages": self.languages}

    def recordings(self) -> Sequence[Recording]:
        """See :class:`SpeechData`. Fetches the packages when they are not in the cache.

        Raises:
            UserError: there is no Debian archive within reach.
        """
        return [recording for name in self.languages for recording in self._of(name)]

    def _of(self, language: str) -> list[Recording]:
        root = self._sources(language)
        transcript = root / f"usr/share/doc/asterisk-core-sounds-{language}/core-sounds-{language}.txt.gz"
        sounds = root / "usr/share/asterisk/sounds"
        # The first folder below ``sounds`` names the voice; the rest is the key.
        files = {"/".join(f.relative_to(sounds).with_suffix("").parts[1:]): f for f in sounds.rglob("*.g722")}
        if not transcript.is_file() or not files:
            raise UserError(
                f"the packages asterisk-core-sounds-{language} hold no texts or recordings where they are expected: "
                f"{_INSTEAD}"
            )
        prefix = f"{language}/" if len(self.languages) > 1 else ""
        result = []
        for key, text in _transcripts(transcript).items():
            file = files.get(key)
            if file is None or not is_speech(language, key, text) or file.stat().st_size == 0:
                continue
            result.append(
                Recording(
                    prefix + key,
                    strip_fragment(text),
                    _loader(file, self.sample_rate),
                    VOICES[language].speaker,
                    language,
                )
            )
        return result

    def _sources(self, language: str) -> Path:
        """The unpacked packages of one language."""
        root = cache_root(self.cache) / "debian"
        folder = root / f"core-sounds-{language}"
        if folder.is_dir():
            return folder
        name = f"asterisk-core-sounds-{language}"
        try:
            packages = fetch([name, f"{name}-g722"], root / "packages", instead=_INSTEAD)
            try:
                atomic.write_folder(folder, lambda inner: [unpack(package, inner) for package in packages])
            except OSError:
                # Another process was faster; its folder is as good.
                if not folder.is_dir():
                    raise
            shutil.rmtree(root / "packages" / "partial", ignore_errors=True)
        except OSError as error:
            raise UserError(f"cannot keep the recordings in {str(root)!r}: {error.strerror or error}") from error
        return folder


def is_speech(language: str, key: str, text: str) -> bool:
    """Whether a prompt is speech that says its text: no tone, silence or monkey, none of the known wrong ones."""
    return bool(text) and not text.startswith(("[", "(", "<")) and (language, key) not in _DROPPED and key != _NOTE


def _loader(file: Path, sample_rate: int) -> Callable[[], Tensor]:
    return partial(_load, file, sample_rate)


def _load(file: Path, sample_rate: int) -> Tensor:
    return audio.read(file, sample_rate)[0]


def _transcripts(path: Path) -> dict[str, str]:
    """Lines "key: text"; lines that begin with ";" are comments."""
    with gzip.open(path, "rt", encoding="utf-8-sig") as file:
        lines = [line.strip() for line in file if not line.startswith(";")]
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {key.strip(): text.strip() for key, _, text in pairs}
