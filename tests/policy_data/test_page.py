"""The page about one's own demonstrations: its recipes parse, its programs run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from domains.policy.data.arrays import ArrayDemonstrations
from domains.policy.data.minari import MinariDemonstrations
from flowkit.config.recipe import parse_recipe

PAGE = (Path(__file__).parents[2] / "docs" / "your-own-demonstrations.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("block", blocks("yaml"))
def test_recipes_parse_and_build(block):
    raw = yaml.safe_load(block)
    data = parse_recipe(raw, "page", keys=("data",)).build("data").data
    kept = vars(data)
    common = [name for name in raw["data"]["init_args"] if name in kept]
    assert common
    for name in common:
        value = raw["data"]["init_args"][name]
        assert kept[name] == (tuple(value) if name == "size" else value)


def test_programs_run(tmp_path, monkeypatch):
    pytest.importorskip("minari")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    arrays, recording = blocks("python")
    rng = np.random.default_rng(0)
    episodes = [(rng.normal(size=(n, 4)), rng.normal(size=(n, 2))) for n in (3, 5)]
    exec(arrays, {"episodes": episodes})
    recorded = ArrayDemonstrations("mine.npz", state=["state"]).recorded
    assert recorded.ends.tolist() == [3, 8]
    assert recorded.actions[3:] == pytest.approx(episodes[1][1])
    for _ in range(2):
        exec(recording, {})
    written = MinariDemonstrations("mine/first-v0", cache=str(tmp_path / "cache")).recorded
    assert written.lengths.tolist() == [20, 20]
    assert written.successes.tolist() == [1, 1]
