"""What all tests share."""

from __future__ import annotations

import sys


def pytest_runtest_setup() -> None:
    if checker := sys.modules.get("first_calls"):  # absent where pytest runs without the type checker
        checker.start()
