"""Moving pictures: policies are filmed as every domain is."""

from __future__ import annotations

from flowkit.clip import Clip

__all__ = ["Clip"]
