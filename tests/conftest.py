"""What all tests share."""

from __future__ import annotations

import first_calls


def pytest_runtest_setup() -> None:
    first_calls.start()
