"""SIGINT and SIGTERM during training: the first asks for a checkpoint and a stop, the second stops at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """Context manager that listens for SIGINT and SIGTERM; outside the main thread it hears nothing.

    Attributes:
        received: name of the first signal, or None.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.received = signal.Signals(number).name
        # os.write: print is not safe where a handler interrupts another print.
        message = f"\n{self.received}: stopping after this step with a checkpoint; once more stops at once\n"
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, message.encode())

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
