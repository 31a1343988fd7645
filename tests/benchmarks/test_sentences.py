"""The words that are compared, and the candidates of the closed-set test."""

from __future__ import annotations

import pytest

from benchmarks.speech.sentences import UNSEEN, candidates, judged, words
from flowkit.errors import UserError

KNOWN = {"press", "one", "two", "now", "please", "wait", "here", "goodbye", "you", "are", "muted"}


def test_words_drop_punctuation_and_spell_digits():
    assert words("...Press 12, NOW -- it's 'here'.") == ["press", "twelve", "now", "it's", "here"]


def test_the_unseen_are_22_different_clips():
    assert len(UNSEEN) == len(set(UNSEEN)) == 22


def test_only_sentences_within_reach_of_the_recogniser_are_judged():
    texts = {
        "a": "Please wait here.", "b": "Press 1 now", "c": "Goodbye", "d": "Please wait, xylophone",
        "e": "You are here now", "f": "Press one now",
    }  # fmt: skip
    seconds = dict.fromkeys(texts, 2.0) | {"e": 12.0}
    assert judged(texts, seconds, KNOWN) == ["a", "f"]


def test_candidates_hold_the_spoken_once_and_only_sentences_the_recogniser_can_tell():
    spoken = [["you", "are", "muted"], ["you", "are", "muted"]]
    corpus = {
        "Please wait here.": 2.0,
        "please wait here": 2.0,  # the same sentence again
        "Press 1 now": 2.0,  # digits
        "Goodbye": 1.0,  # too short
        "Please wait, xylophone": 2.0,  # unknown to the recogniser
        "You are here now": 12.0,  # too long
        "Press one now": 1.5,
    }
    chosen = candidates(spoken, corpus, KNOWN, number=3)
    assert chosen[0] == ["you", "are", "muted"]
    assert sorted(map(" ".join, chosen)) == ["please wait here", "press one now", "you are muted"]


def test_candidates_do_not_depend_on_the_order_of_the_corpus():
    corpus = {f"please wait {a} {b}": 1.0 for a in KNOWN for b in KNOWN}
    backwards = dict(reversed(corpus.items()))
    assert candidates([], corpus, KNOWN, 20) == candidates([], backwards, KNOWN, 20)


def test_candidates_refuse_what_cannot_be_recognised_and_too_small_a_corpus():
    with pytest.raises(UserError, match="'xylophone'"):
        candidates([["press", "xylophone"]], {}, KNOWN)
    with pytest.raises(UserError, match="only 1 of 100"):
        candidates([["press", "one"]], {}, KNOWN)
