"""The comparison with the official code, as far as it goes without a checkout of it."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import matcha_official
from benchmarks.speech import official
from flowkit.errors import UserError


def test_the_decoder_costs_what_the_published_one_costs(tmp_path, capsys):
    out = tmp_path / "decoder.json"
    assert matcha_official.main(["decoder", "--rounds", "1", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["gigaflops"]["ours"] == pytest.approx(4.75, rel=0.05)
    assert set(result["steps"]) == {"2", "4", "10"}
    assert capsys.readouterr().out.count("\n| ") == 4


def test_the_training_step_is_the_trainers(tmp_path):
    out = tmp_path / "train.json"
    arguments = ["train", "--recipe", "speech/smoke/matcha-rulemade", "--device", "cpu", "--precision", "fp32"]
    assert matcha_official.main([*arguments, "--batch", "4", "--batches", "2", "--rounds", "1", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["seconds_a_step"]["ours"] > 0


def test_a_wrong_checkout_is_one_line(tmp_path, capsys):
    assert matcha_official.main(["decoder", "--official", str(tmp_path), "--rounds", "1"]) == 2
    error = capsys.readouterr().err
    assert "matcha_tts.py" in error
    assert error.count("\n") == 1


def test_stand_ins_fill_gaps_and_hide_nothing_that_is_installed(monkeypatch):
    monkeypatch.delitem(sys.modules, "no_such_package_here", raising=False)
    official._stand_in("no_such_package_here.inner", thing=1)
    official._stand_in("json.tool")
    from no_such_package_here.inner import anything, thing  # pyright: ignore[reportMissingImports]

    assert thing == 1
    assert anything(3).more is not None
    assert sys.modules["json"] is json
    for name in ("no_such_package_here", "no_such_package_here.inner"):
        del sys.modules[name]


def test_loading_needs_a_checkout(tmp_path):
    with pytest.raises(UserError, match="clone"):
        official.load_official(tmp_path)
