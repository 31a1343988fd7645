from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def codec_run(tmp_path_factory):
    """The folder of a trained autoencoder."""
    from codec_toy import RECIPE, few, train

    folder = tmp_path_factory.mktemp("codec") / "run"
    assert train(RECIPE, folder, *few(40)) == 0
    return folder
