"""Where numbers go: ``metrics.jsonl``, one line per record, and TensorBoard under the same tags.

Tags: ``train/loss``, ``train/<term>``, ``train/grad_norm``, ``train/lr``, ``time/data_s``, ``time/step_s``,
``time/samples_per_s``, ``eval/<metric>``, ``samples/<name>``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowkit import atomic


class Metrics:
    """Writer of one run's numbers; with ``folder=None`` it writes nothing (dry runs, processes other than the first).

    Args:
        folder: of the run.
        start: step from which the run goes on: records of later steps, from a run that was killed, are dropped.
        tensorboard: write ``folder/tensorboard`` too; the package is imported with the first record.
    """

    def __init__(self, folder: Path | None, *, start: int = 0, tensorboard: bool = True) -> None:
        self.folder, self.start, self.tensorboard = folder, start, tensorboard
        self._writer: Any = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._drop_later()

    @property
    def file(self) -> Path | None:
        """The ``metrics.jsonl`` of the run."""
        return None if self.folder is None else self.folder / "metrics.jsonl"

    def _drop_later(self) -> None:
        if self.file is None or not self.file.exists():
            return
        lines = self.file.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if _step(line) <= self.start]
        if len(kept) < len(lines):
            atomic.write_text(self.file, "".join(line + "\n" for line in kept))

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Append one record; a line that the disk does not take whole is taken back before the error goes on."""
        if self.file is None:
            return
        line = (json.dumps({"step": step, **values}) + "\n").encode()
        handle = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            before = os.fstat(handle).st_size
            try:
                rest = line
                while rest:
                    rest = rest[os.write(handle, rest) :]
            except OSError:
                os.ftruncate(handle, before)
                raise
        finally:
            os.close(handle)
        if (writer := self.writer) is not None:
            for tag, value in values.items():
                writer.add_scalar(tag, value, step)

    @property
    def writer(self) -> Any:
        """TensorBoard's ``SummaryWriter``, or None."""
        if self._writer is None and self.tensorboard and self.folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.start + 1)
        return self._writer

    def close(self) -> None:
        """Flush and close TensorBoard's file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _step(line: str) -> int | float:
    """The step of a record; infinite for a line cut short, so that it is dropped."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
