"""One page with the three small models that ship, for all tests of this folder."""

from __future__ import annotations

import pytest

NAMES = ("speech/prompts-en", "policy/fork", "video/river-sprites")


@pytest.fixture(scope="session")
def served():
    pytest.importorskip("gradio")
    for package in ("librosa", "gymnasium", "av"):
        pytest.importorskip(package)
    from flowkit.app.serve import serve, tabs_of

    page = serve(tabs_of(NAMES, device="cpu"), port=0)
    yield page
    page.close()
