"""Arrays that are too many for the memory, kept in a file until all are there."""

from __future__ import annotations

from pathlib import Path

import numpy as np


class Spool:
    """Arrays of equal width, appended to a file and mapped again.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lengths: list[int] = []
        self._width = 0

    def add(self, rows: np.ndarray) -> None:
        """Append rows (n, width) float16."""
        with self.path.open("ab") as file:
            file.write(np.ascontiguousarray(rows).data)
        self._lengths.append(len(rows))
        self._width = rows.shape[1]

    def arrays(self) -> list[np.ndarray]:
        """All that was appended, memory-mapped."""
        whole = np.asarray(np.memmap(self.path, dtype=np.float16, mode="r").reshape(-1, self._width))
        return np.split(whole, np.cumsum(self._lengths)[:-1])
