from __future__ import annotations

import sys

import pytest

from domains.speech import phonemes as module
from domains.speech.phonemes import (
    SYMBOLS,
    CharacterPhonemizer,
    EspeakPhonemizer,
    SymbolTable,
    intersperse,
    make_phonemizer,
)
from flowkit.errors import UserError


def test_the_published_table() -> None:
    assert len(SYMBOLS) == len(SymbolTable()) == 178
    assert SYMBOLS[0] == "_"
    assert "".join(SYMBOLS[1:17]) == ';:,.!?¡¿—…"«»“” '
    assert SYMBOLS[17] == "A"
    assert SYMBOLS[69] == "ɑ"
    assert SYMBOLS[177] == "ᵻ"
    # The apostrophe is there twice and the published code uses its last place.
    assert SymbolTable().encode("a'")[1] == 176


def test_encode_and_decode() -> None:
    table = SymbolTable()
    numbers = table.encode("həlˈoʊ, wˈɜːld!")
    assert table.decode(numbers) == "həlˈoʊ, wˈɜːld!"
    assert table.decode(intersperse(numbers)) == "həlˈoʊ, wˈɜːld!"
    assert intersperse([3, 4]) == [0, 3, 0, 4, 0]
    assert table.unknown("a~b~#") == ["~", "#"]
    assert table.decode(table.encode("a~b_")) == "ab"


@pytest.mark.parametrize("phonemes", ["", "...", " , !", "ˈː", "~#"])
def test_text_without_sound_is_a_users_error(phonemes: str) -> None:
    with pytest.raises(UserError, match=r"text '\?\?' holds nothing that can be pronounced"):
        SymbolTable().encode(phonemes, "??")


@pytest.mark.parametrize(
    ("language", "text", "wanted"),
    [
        ("en", "Please enter your number.", "plˈiːz ˈɛntɚ jʊɹ nˈʌmbɚ."),
        ("es", "Por favor, gracias.", "poɾ faβˈoɾ, ɡɾˈasjas."),
        ("fr", "en ligne", "ɑ̃ lˈiɲ"),
        ("it", "Quell'operatore.", "kwelloperatˈore."),
        ("ru", "уже", "ˈuʒy"),
    ],
)
def test_five_languages(language: str, text: str, wanted: str) -> None:
    pytest.importorskip("phonemizer")
    found = EspeakPhonemizer(language)(text)
    assert found == wanted
    known = SymbolTable((*SYMBOLS, "\u0303", "\u032a"))
    assert not known.unknown(found)
    assert set(SymbolTable().unknown(found)) <= {"\u0303"}


def test_batches_keep_their_places() -> None:
    pytest.importorskip("phonemizer")
    phonemizer = EspeakPhonemizer("en-us")
    texts = ["hello", "", "two, three", "!!!", "12"]
    batch = phonemizer.phonemes(texts)
    assert batch == [phonemizer(text) for text in texts]
    assert batch[0] == "həlˈoʊ"
    assert batch[1] == ""
    assert batch[4] == "twˈɛlv"


def test_unknown_language_names_the_nearest() -> None:
    pytest.importorskip("phonemizer")
    with pytest.raises(UserError, match="no language 'en-uss': did you mean 'en-us'"):
        EspeakPhonemizer("en-uss")("hello")


def test_missing_package_is_one_line_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "phonemizer.backend", None)
    module._espeak.cache_clear()
    with pytest.raises(UserError, match="pip install phonemizer espeakng-loader") as caught:
        EspeakPhonemizer("en")("hello")
    assert "\n" not in str(caught.value)
    module._espeak.cache_clear()


def test_factory() -> None:
    assert isinstance(make_phonemizer("characters", "en"), CharacterPhonemizer)
    assert make_phonemizer("characters", "fr")("Été (1)") == "été, 1"
    with pytest.raises(UserError, match="did you mean 'espeak'"):
        make_phonemizer("espeek", "en")
