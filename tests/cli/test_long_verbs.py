"""A plugin may add a verb of two words, beside a verb of one that begins with the same word."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from flowkit.config.plugins import Plugin, Verb, add_plugin


@pytest.fixture(autouse=True)
def _verb(monkeypatch):
    module = ModuleType("data_juggle_for_a_test")
    module.EXAMPLE = "example:\n  flowkit data juggle 3"
    module.add_arguments = lambda parser: parser.add_argument("balls", type=int)
    module.run = lambda args: print("juggled", args.balls)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    add_plugin(Plugin(name="circus", verbs={"data juggle": Verb(module.__name__, "juggle with data")}))


def test_it_is_found_before_the_verb_of_one_word(flowkit):
    assert flowkit("data", "juggle", 3) == (0, "juggled 3\n", "")


def test_the_verb_of_one_word_stays(flowkit, toy_recipe):
    code, out, _ = flowkit("data", "prepare", toy_recipe)
    assert code == 0
    assert "samples" in out


def test_help_shows_both(flowkit):
    _, out, _ = flowkit("--help")
    assert "data juggle" in out
    assert "juggle with data" in out
    _, out, _ = flowkit("data", "--help")
    assert "see also: flowkit data juggle --help  (juggle with data)" in out
    _, out, _ = flowkit("data", "juggle", "--help")
    assert out.startswith("usage: flowkit data juggle")
    assert "see also" not in out


def test_a_misspelt_second_word_names_it(flowkit):
    code, _, err = flowkit("data", "jugle", 3)
    assert code == 2
    assert "'jugle'" in err
    assert "flowkit data juggle" in err
