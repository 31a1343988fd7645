"""Where the time of a trainer's step goes: marks at its borders, on the host's clock or on the GPU's own stream.

The trainer is not changed: the marks hang on hooks of its model and optimiser and on what its loop calls. Each stretch
between two marks belongs to the mark that ends it, so the parts of a step add up to the step. On a GPU a mark is an
event on the stream: nothing waits, and a stretch holds the time in which the card computed it or waited for the host
to issue it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable
from typing import Any

import torch

from flowkit.train.run import Run

#: Parts of a step in their order. ``move`` is the transfer to the device, ``rest`` the loop's own work and records.
PARTS = ("data", "move", "forward", "backward", "replay", "exchange", "clip", "optimiser", "average", "rest")


class Marks:
    """Marks on the steps of ``run``, from :meth:`start` on.

    Args:
        run: a training that has not begun; its hooks stay.
    """

    def __init__(self, run: Run) -> None:
        self.on_gpu = run.device.type == "cuda"
        self.marks: list[tuple[str, Any]] = []
        self.active = False
        if run.turns.graphs is None:
            run.turns.model.register_forward_pre_hook(lambda *_: self.mark("move"))
            run.turns.model.register_forward_hook(lambda *_: self.mark("forward"))
            self._after(run.accelerator, "backward", "backward")
        else:
            replay = run.turns.graphs.__call__

            class Marked(type(run.turns.graphs)):
                def __call__(inner, *args: Any, **kwargs: Any) -> Any:
                    self.mark("move")
                    result = replay(*args, **kwargs)
                    self.mark("replay")
                    return result

            run.turns.graphs.__class__ = Marked
            self._after(run.turns.graphs, "reduce", "exchange")
        self._after(run.accelerator, "clip_grad_norm_", "clip")
        for turn in run.turns.turns:
            turn.optimiser.register_step_post_hook(lambda *_: self.mark("optimiser"))
        if run.ema is not None:
            self._after(run.ema, "update", "average")

    def _after(self, owner: Any, name: str, part: str) -> None:
        """Mark each return of a method."""
        inner: Callable[..., Any] = getattr(owner, name)

        def marked(*args: Any, **kwargs: Any) -> Any:
            result = inner(*args, **kwargs)
            self.mark(part)
            return result

        setattr(owner, name, marked)

    def mark(self, part: str) -> None:
        """What came since the last mark was ``part``."""
        if not self.active:
            return
        if self.on_gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append((part, event))
        else:
            self.marks.append((part, time.perf_counter()))

    def handed(self, shares: Iterable[Any], *, skip: int) -> Generator[Any, None, None]:
        """``shares``, with the marks of ``data`` and ``rest``; the first ``skip`` steps are not marked."""
        source = iter(shares)
        number = 0
        while True:
            if number == skip:
                self._start()
            self.mark("rest")
            try:
                share = next(source)
            except StopIteration:
                return
            self.mark("data")
            number += 1
            yield share

    def _start(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()
        self.active = True
        self.marks.clear()

    def milliseconds(self) -> dict[str, float]:
        """Part -> milliseconds over all marked steps; clears the marks. Waits for the device."""
        if self.on_gpu:
            torch.cuda.synchronize()
        totals: dict[str, float] = defaultdict(float)
        for (_, before), (part, after) in zip(self.marks, self.marks[1:], strict=False):
            totals[part] += before.elapsed_time(after) if self.on_gpu else 1e3 * (after - before)
        self.marks.clear()
        self.active = False
        return dict(totals)
