"""From text to phoneme symbols: the :class:`Phonemizer` interface, espeak behind it, and the table of symbols.

espeak-ng and phonemizer are GPL-3: an optional part, imported only when an :class:`EspeakPhonemizer` is first used.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Literal

from domains.speech.text import clean
from flowkit.errors import UserError, nearest

#: Short names of languages and the voice of espeak that reads them.
LANGUAGES = {"en": "en-us", "es": "es-419", "fr": "fr-fr", "it": "it", "ru": "ru"}

PAD = "_"
PUNCTUATION = ';:,.!?¡¿—…"«»“” '
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
IPA = (
    "ɑɐɒæɓʙβɔɕçɗɖðʤəɘɚɛɜɝɞɟʄɡɠɢʛɦɧħɥʜɨɪʝɭɬɫɮʟɱɯɰŋɳɲɴøɵɸθœɶʘɹɺɾɻʀʁɽʂʃʈʧʉʊʋⱱʌɣɤʍχʎʏʑʐʒʔʡʕʢǀǁǂǃˈˌːˑʼʴʰʱʲʷˠˤ˞↓↑→↗↘'\u0329'ᵻ"
)
#: The 178 published symbols of Matcha-TTS in order. The apostrophe stands twice; its second place is the one in use.
SYMBOLS: tuple[str, ...] = (PAD, *PUNCTUATION, *LETTERS, *IPA)
#: What espeak leaves in some languages besides sounds: joints inside words, a palatal sign without its vowel.
_NO_SOUND = str.maketrans("", "", "-^")
#: Marks of stress, length and tone: no sound by themselves.
_MODIFIERS = set("ˈˌːˑʼʴʰʱʲʷˠˤ˞↓↑→↗↘'\u0329")


class SymbolTable:
    """Symbols and their numbers. Number 0 pads and, with blanks, stands between and around all symbols.

    Args:
        symbols: the symbols in order, the padding symbol first.
    """

    def __init__(self, symbols: Sequence[str] = SYMBOLS) -> None:
        self.symbols = tuple(symbols)
        self._numbers = {symbol: number for number, symbol in enumerate(self.symbols)}
        silent = set(PUNCTUATION) | _MODIFIERS | {self.symbols[0]}
        self._sounds = {number for symbol, number in self._numbers.items() if symbol not in silent}

    def __len__(self) -> int:
        return len(self.symbols)

    def unknown(self, phonemes: str) -> list[str]:
        """Characters of ``phonemes`` that have no number, in order of appearance, each once."""
        return list(dict.fromkeys(c for c in phonemes if c not in self._numbers))

    def encode(self, phonemes: str, text: str | None = None) -> list[int]:
        """Numbers of the known characters; unknown ones are left out (see :meth:`unknown`).

        Raises:
            UserError: nothing pronounceable is left. The message shows ``text`` (or the phonemes).
        """
        numbers = [self._numbers[c] for c in phonemes if c in self._numbers and c != self.symbols[0]]
        if not any(number in self._sounds for number in numbers):
            raise UserError(f"text {(phonemes if text is None else text)!r} holds nothing that can be pronounced")
        return numbers

    def decode(self, numbers: Iterable[int]) -> str:
        """The symbols of ``numbers``, padding and blanks left out."""
        return "".join(self.symbols[number] for number in numbers if number != 0)


def intersperse(numbers: Sequence[int], blank: int = 0) -> list[int]:
    """Put ``blank`` between and around all numbers: n become 2 n + 1.

    >>> intersperse([5, 7])
    [0, 5, 0, 7, 0]
    """
    result = [blank] * (2 * len(numbers) + 1)
    result[1::2] = numbers
    return result


class Phonemizer(ABC):
    """Reads texts of one language as phoneme symbols."""

    language: str

    @abstractmethod
    def phonemes(self, texts: Sequence[str]) -> list[str]:
        """One string of symbols per text; punctuation is kept. Texts come as people write them."""

    def __call__(self, text: str) -> str:
        """Phonemes of one text."""
        return self.phonemes([text])[0]


class EspeakPhonemizer(Phonemizer):
    """International phonetic alphabet with stress marks and punctuation by espeak-ng (no system package needed).

    Args:
        language: a short name (en, es, fr, it, ru) or any voice of espeak such as ``en-gb``.
    """

    def __init__(self, language: str = "en") -> None:
        self.language = language

    def phonemes(self, texts: Sequence[str]) -> list[str]:
        """See :meth:`Phonemizer.phonemes`.

        Raises:
            UserError: phonemizer or espeakng-loader is not installed, or espeak knows no such language.
        """
        backend = _espeak(LANGUAGES.get(self.language, self.language))
        # espeak gives nothing back for an empty line, which would shift the others.
        cleaned = [clean(text, self.language) for text in texts]
        spoken = [text for text in cleaned if text]
        read = iter(backend.phonemize(spoken, strip=True, njobs=1) if spoken else [])
        return [" ".join(next(read).translate(_NO_SOUND).split()) if text else "" for text in cleaned]


class CharacterPhonemizer(Phonemizer):
    """Letters instead of phonemes: no extra package, for tests and for languages without a phonemiser.

    Args:
        language: only decides how the text is cleaned.
    """

    def __init__(self, language: str = "en") -> None:
        self.language = language

    def phonemes(self, texts: Sequence[str]) -> list[str]:
        """The cleaned texts themselves."""
        return [clean(text, self.language) for text in texts]


#: Names of the phonemisers that a recipe can ask for.
PhonemeKind = Literal["espeak", "characters"]


def make_phonemizer(kind: str, language: str) -> Phonemizer:
    """The phonemiser ``kind`` (``espeak`` or ``characters``) for ``language``."""
    kinds = {"espeak": EspeakPhonemizer, "characters": CharacterPhonemizer}
    if kind not in kinds:
        raise UserError(f"there is no phonemiser {kind!r}: {nearest(kind, kinds)}")
    return kinds[kind](language)


@lru_cache(maxsize=16)
def _espeak(voice: str) -> Any:
    try:
        import espeakng_loader
        from phonemizer.backend import EspeakBackend
        from phonemizer.backend.espeak.wrapper import EspeakWrapper
    except ImportError as error:
        raise UserError(
            f"phonemes need the optional packages phonemizer and espeakng-loader ({error.name} is missing): "
            "pip install phonemizer espeakng-loader"
        ) from error
    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
    voices = EspeakBackend.supported_languages()
    if voice not in voices:
        raise UserError(f"espeak has no language {voice!r}: {nearest(voice, [*LANGUAGES, *voices])}")
    quiet = logging.getLogger("flowkit.espeak")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    return EspeakBackend(
        voice,
        preserve_punctuation=True,
        with_stress=True,
        language_switch="remove-flags",
        words_mismatch="ignore",
        logger=quiet,
    )
