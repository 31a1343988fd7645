"""One line that says where a training stands; in a log file, a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from io import TextIOBase


def duration(seconds: float) -> str:
    """Seconds as ``4:05`` or ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """The progress line.

    On a terminal the line is rewritten in place; elsewhere a line is printed at most every ``pause`` seconds, without
    carriage returns, so that a log file reads well.

    Args:
        steps: length of the training.
        start: step at which this process began.
        shown: False prints nothing.
        stream: where to (default: standard error).
        pause: least seconds between two lines of a log.
        seconds: after which training ends anyway.
    """

    def __init__(
        self, steps: int, start: int = 0, *, shown: bool = True, stream: TextIOBase | None = None, pause: float = 10.0,
        seconds: float = float("inf"),
    ) -> None:  # fmt: skip
        self.seconds = seconds
        self.steps, self.start, self.shown, self.pause = steps, start, shown, pause
        self.stream = stream or sys.stderr
        self.in_place = shown and self.stream.isatty()
        self._began = time.monotonic()
        self._printed = float("-inf")
        self._width = 0

    def update(self, step: int, losses: Mapping[str, float], samples_per_second: float, *, last: bool = False) -> None:
        """Show ``step`` (completed), losses and speed; the remaining time follows from the mean speed so far."""
        now = time.monotonic()
        if not self.shown or (not self.in_place and not last and now - self._printed < self.pause):
            return
        self._printed = now
        left = (now - self._began) / max(step - self.start, 1) * (self.steps - step)
        left = max(min(left, self._began + self.seconds - now), 0.0)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in losses.items())
        line = f"step {step}/{self.steps}  {shown}  {samples_per_second:.4g} samples/s  {duration(left)} left"
        if self.in_place:
            self.stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self.stream.write(line + "\n")
        self.stream.flush()

    def note(self, text: str) -> None:
        """A line of its own (an evaluation, a checkpoint)."""
        if not self.shown:
            return
        if self.in_place and self._width:
            self.stream.write("\n")
            self._width = 0
        self.stream.write(text + "\n")
        self.stream.flush()

    def close(self) -> None:
        """End the line."""
        if self.in_place and self._width:
            self.stream.write("\n")
            self._width = 0
