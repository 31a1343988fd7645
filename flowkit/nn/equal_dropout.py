"""Equal dropout in two calls of a network: torch's global generators, put back for the second one."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType

import torch
from torch import Tensor


class EqualDropout(AbstractContextManager[None]):
    """Remembers torch's global generators (the CPU's and that of ``device``) when it is made; inside ``with`` draws are
    those that followed then, afterwards all goes on as if the block had not been.

    Make it before the first call, and make the second one inside. (The other order, with the second call first and
    without gradients, would leave autocast's cached half-precision weights without gradients for the first.)
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._then, self._now = self._read(), list[Tensor]()

    def _read(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        if self._device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self._device))
        return states

    def _write(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(states[1], self._device)

    def __enter__(self) -> None:
        self._now = self._read()
        self._write(self._then)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write(self._now)
