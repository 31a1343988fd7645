"""The models lie beside the tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from exported_models import policy, video, voice  # noqa: F401  (fixtures)
