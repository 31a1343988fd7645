"""What a measurement of fine-tuning needs of a domain: a base, data that it has not seen, and a judge."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowkit.config.overrides import Override


class Case(ABC):
    """A shipped model and what it is fitted to.

    Attributes:
        base: a pretrained name, run or model folder.
        device: ``cuda`` or ``cpu``.
        limit: held-out samples judged, at most.
        seed: of what is drawn in judging.
    """

    base: str
    device: str
    limit: int
    seed: int = 0

    @abstractmethod
    def data(self, *, light: bool = False) -> Mapping[str, Any]:
        """The recipe's ``data``: a class with its arguments; ``light``: little of it, and nothing kept on the GPU."""

    @abstractmethod
    def judge(self, model: str, keep: Path | None) -> dict[str, float]:
        """Measures on held-out data of a pretrained name, run or adapter folder; ``keep`` is where made samples go."""

    def overrides(self) -> list[Override]:
        """Of every training, fine-tuned or from scratch."""
        return []

    def reference(self) -> dict[str, Any]:
        """What the measures are read against: copying, recordings, the amount of data."""
        return {}
