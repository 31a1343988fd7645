from __future__ import annotations

from pathlib import Path

import pytest

from flowkit.config import plugins

TOY = Path(__file__).parent / "toy_plugin.py"


@pytest.fixture(autouse=True)
def _toy_plugin():
    """The toy classes can be named, and nothing that a test opts in stays."""
    before = dict(plugins._added)
    plugins.add_plugin_file(TOY)
    yield
    plugins._added.clear()
    plugins._added.update(before)
