from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.speech.text import clean, fold, normal_form, spell_numbers, split_of, strip_fragment


def test_clean_english() -> None:
    assert clean("Dr.  Müller (late) said:\n“Café!”") == 'doctor muller, late, said: "cafe!"'
    assert clean("Mr. X vs. Mrs. Y — etc.") == "mister x versus missus y - et cetera"
    assert clean("Don’t stop…") == "don't stop..."


def test_clean_keeps_the_letters_of_other_languages() -> None:
    assert clean("Écoutez  l'été à Genève", "fr") == "écoutez l'été à genève"
    assert clean("Ёлка", "ru") == "ёлка"
    assert clean("dr. rossi", "it") == "dr. rossi"


def test_fold_leaves_plain_text() -> None:
    assert fold("plain text, 1!") == "plain text, 1!"
    assert fold("naïve Ångström œuvre straße") == "naive Angstrom oeuvre strasse"


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_clean_never_leaves_control_characters_or_double_spaces(text: str) -> None:
    cleaned = clean(text)
    assert not re.search(r"[\x00-\x1f()\[\]{}]|  ", cleaned)
    assert cleaned == cleaned.strip()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("...has left the conference...", "has left the conference"),
        ("... a quitté.", "a quitté."),
        ("One. Two.", "One. Two."),
        ("to other participants....", "to other participants"),
        ("…and so on…", "and so on"),
    ],
)
def test_strip_fragment(text: str, wanted: str) -> None:
    assert strip_fragment(text) == wanted


def test_split_goes_by_words_alone() -> None:
    assert split_of("Goodbye.") == split_of("  GOODBYE!! ")
    shares = [split_of(f"sentence number {i}") for i in range(2000)]
    assert 0.07 < shares.count("test") / 2000 < 0.13
    assert 0.07 < shares.count("validation") / 2000 < 0.13


def test_split_is_the_published_rule() -> None:
    for text in ("Password incorrect.  Please enter your password followed by the pound key.", "Thank you.", "Añadido"):
        normal = re.sub(r"\W+", " ", text.lower()).strip()
        remainder = int(hashlib.md5(normal.encode()).hexdigest(), 16) % 10
        assert split_of(text) == {0: "test", 1: "validation"}.get(remainder, "train")
    assert normal_form(" A-b,  C! ") == "a b c"
    # One of the 22 sentences on which results are reported.
    assert split_of("Password incorrect.  Please enter your password followed by the pound key.") == "test"


def test_spell_numbers() -> None:
    pytest.importorskip("num2words")
    assert spell_numbers("press 12 or 3.5") == "press twelve or three point five"
    assert spell_numbers("1,000 boats") == "one thousand boats"
    assert spell_numbers("version 1.2.3") == "version one two three"
    assert spell_numbers("drücken", "de") == "drücken"
    assert spell_numbers("numero 7", "it") == "numero sette"
