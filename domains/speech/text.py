"""Text before phonemes: cleaning for the reader, and the normal form by which transcripts are split."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache

from flowkit.data import Split
from flowkit.errors import UserError

#: Spelled out in English before phonemes are made; the full stop belongs to the abbreviation.
_ABBREVIATIONS = {
    "mr": "mister", "mrs": "missus", "dr": "doctor", "st": "saint", "co": "company", "jr": "junior", "sr": "senior",
    "maj": "major", "gen": "general", "drs": "doctors", "rev": "reverend", "lt": "lieutenant", "hon": "honorable",
    "sgt": "sergeant", "capt": "captain", "esq": "esquire", "ltd": "limited", "col": "colonel", "ft": "fort",
    "etc": "et cetera", "vs": "versus",
}  # fmt: skip
_ABBREVIATION = re.compile(r"\b(" + "|".join(_ABBREVIATIONS) + r")\.", re.IGNORECASE)
_FOLDS = str.maketrans(
    {
        "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "‘": "'", "’": "'", "‚": "'", "–": "-", "—": " - ",
        "…": "...", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "ß": "ss", "ł": "l", "Ł": "L",
        "đ": "d", "ð": "d", "þ": "th", "\u00a0": " ", "\u2009": " ", "\u200b": None, "\ufeff": None,
    }
)  # fmt: skip
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def fold(text: str) -> str:
    """Plain letters for accented ones, straight quotes for curly ones: what English phonemisers expect."""
    decomposed = unicodedata.normalize("NFKD", text.translate(_FOLDS))
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def clean(text: str, language: str = "en") -> str:
    """The text that goes to the phonemiser: control characters and brackets gone, white space collapsed, lower case.

    English is folded to plain letters and its abbreviations are spelled out. Digits stay: espeak reads them in every
    language.

    >>> clean("Dr.  Müller (late) said:\\n“Café!”")
    'doctor muller, late, said: "cafe!"'
    """
    text = unicodedata.normalize("NFC", text)
    # Brackets are no symbols of the published table; a pause is what a reader makes of them.
    text = re.sub(r"\s*[(\[{]\s*", ", ", text)
    text = re.sub(r"\s*[)\]}]\s*(?=[.,;:!?])", "", text)
    text = re.sub(r"\s*[)\]}]", ",", text)
    if language.startswith("en"):
        text = _ABBREVIATION.sub(lambda match: _ABBREVIATIONS[match.group(1).lower()], fold(text))
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp", "Zs") else c for c in text)
    return re.sub(r"\s+", " ", text).strip(" ,").lower()


def normal_form(text: str) -> str:
    """Lower case words with single spaces between them: equal for transcripts that differ only in punctuation.

    >>> normal_form("  Goodbye,   Thank-you!")
    'goodbye thank you'
    """
    return re.sub(r"\W+", " ", text.lower()).strip()


def split_of(text: str) -> Split:
    """The split of a transcript: MD5 of its normal form modulo 10; 0 is test, 1 validation, the rest train.

    A function of the words alone, so two recordings of one sentence never stand on both sides.
    """
    digest = int(hashlib.md5(normal_form(text).encode(), usedforsecurity=False).hexdigest(), 16) % 10
    return "test" if digest == 0 else "validation" if digest == 1 else "train"


def strip_fragment(text: str) -> str:
    """Remove the dots that mark a fragment at either end of a transcript; one full stop stays.

    >>> strip_fragment("...has left the conference...")
    'has left the conference'
    """
    return re.sub(r"(\s*(\.{2,}|…)\s*)$", "", re.sub(r"^\s*(\.{2,}|…)\s*", "", text)).strip()


@lru_cache(maxsize=1)
def _num2words():
    try:
        from num2words import num2words
    except ImportError as error:
        raise UserError('spelling out numbers needs num2words: pip install "flowkit-fm[speech]"') from error
    return num2words


def spell_numbers(text: str, language: str = "en") -> str:
    """Digits as words, for comparing with what a recogniser writes (espeak reads digits by itself).

    >>> spell_numbers("press 12 or 3.5")
    'press twelve or three point five'
    """

    def words(match: re.Match[str]) -> str:
        digits = match.group().replace(",", "")
        try:
            number = float(digits) if "." in digits else int(digits)
        except ValueError:  # 1.2.3: a version, read digit by digit
            return " ".join(_num2words()(int(d), lang=language[:2]) for d in digits if d.isdigit())
        return _num2words()(number, lang=language[:2])

    return _NUMBER.sub(words, text)
