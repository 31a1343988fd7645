"""The toy set and the processes lie beside the tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "train"))

import pytest
import toy_set


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy set, to be copied: writing flushes each file to the disk."""
    folder = tmp_path_factory.mktemp("written")
    toy_set.write(folder)
    return folder
