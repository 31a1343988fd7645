"""The LJSpeech layout: ``metadata.csv`` with ``id|text|normalised text`` and a folder ``wavs``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from domains.speech import audio
from domains.speech.data.corpus import Recording, SpeechData
from domains.speech.data.table import digest, find, read_text
from domains.speech.features import MelConfig
from domains.speech.phonemes import PhonemeKind
from flowkit.errors import UserError


class LJSpeech(SpeechData):
    """LJSpeech 1.1 (K. Ito and L. Johnson, public domain, 22,050 Hz, 24 hours) or any set in its layout.

    Args:
        folder: where ``metadata.csv`` and ``wavs`` are.
        speaker: name of the one speaker.
        language: short name (en, es, fr, it, ru) or voice of espeak.
        on_error: ``raise`` for a recording that is missing or broken, or ``skip`` it and count it.
        mel: settings of the mels.
        minimum: shorter recordings (seconds, after trimming) are dropped.
        maximum: longer recordings (seconds, after trimming) are dropped.
        trim: cut silence at both ends; the published recipe does not.
        peak: scale every recording to this largest sample; 0 keeps the level.
        phonemes: ``espeak`` or ``characters``.
        blank: put token 0 between and around all tokens.
        cache: where prepared folders go; empty means ``$FLOWKIT_CACHE`` or the user's cache folder.
    """

    licence = "public domain (LJSpeech 1.1); that of the recordings for other sets"
    attribution = ("K. Ito and L. Johnson, The LJ Speech Dataset (for LJSpeech 1.1)",)

    def __init__(
        self,
        folder: str,
        *,
        speaker: str = "LJ",
        language: str = "en",
        on_error: Literal["raise", "skip"] = "raise",
        mel: MelConfig = MelConfig(),  # noqa: B008 (frozen)
        minimum: float = 0.3,
        maximum: float = 30.0,
        trim: bool = False,
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
            on_error=on_error,
            blank=blank,
            cache=cache,
        )
        self.root, self.speaker, self.language = folder, speaker, language

    @property
    def _table(self) -> Path:
        return Path(self.root).expanduser() / "metadata.csv"

    def settings(self) -> dict[str, Any]:
        """See :class:`SpeechData`."""
        folder = str(Path(self.root).expanduser().absolute())
        return {"folder": folder, "table": digest(self._table), "speaker": self.speaker, "language": self.language}

    def recordings(self) -> Sequence[Recording]:
        """See :class:`SpeechData`. The last column is read: the normalised text where there is one."""
        result = []
        sounds = Path(self.root).expanduser() / "wavs"
        for number, line in enumerate(read_text(self._table).splitlines(), start=1):
            if not line.strip():
                continue
            key, *texts = (part.strip() for part in line.split("|"))
            text = next((text for text in reversed(texts) if text), "")
            if not key or not text:
                raise UserError(f"{str(self._table)!r} line {number} is not of the form id|text|normalised text")
            found = find(sounds, key)
            if found is None and self.on_error == "raise":
                raise UserError(
                    f"{str(self._table)!r} line {number} names {key!r}, and {str(sounds / key)!r}.wav is not there "
                    "(on_error: skip leaves such rows out)"
                )
            load = partial(_load, found or sounds / f"{key}.wav", self.sample_rate)
            result.append(Recording(key, text, load, self.speaker, self.language))
        if not result:
            raise UserError(f"{str(self._table)!r} has no rows")
        return result


def _load(path: Path, sample_rate: int) -> Tensor:
    return audio.read(path, sample_rate)[0]
