from __future__ import annotations

from pathlib import Path

import pytest

from flowkit.config import plugins
from flowkit.config.recipe import parse_recipe

TOY = Path(__file__).parents[1] / "config" / "toy_plugin.py"
RAW = {
    "data": {"class_path": "ToyData", "init_args": {"size": 10}},
    "task": {
        "class_path": "ToyTask",
        "init_args": {"network": {"class_path": "ToyNet", "init_args": {"width": 4}}, "objective": "FlowMatching"},
    },
    "sampler": {"solver": "Midpoint", "steps": 3},
    "seed": 1,
}


@pytest.fixture(autouse=True)
def _toy_plugin():
    before = dict(plugins._added)
    plugins.add_plugin_file(TOY)
    yield
    plugins._added.clear()
    plugins._added.update(before)


@pytest.fixture
def recipe():
    return parse_recipe(RAW, "toy")
