"""torch's global random state, which dropout uses: seeded per process, saved, restored, kept apart from evaluations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from flowkit.random import mix_seed

_DROPOUT = 0xD20F


def seed_process(seed: int, rank: int) -> None:
    """Seed torch's global generators so that no two processes drop the same units."""
    torch.manual_seed(mix_seed(seed, _DROPOUT, rank))


def capture(device: torch.device) -> dict[str, Tensor]:
    """The states of the CPU's generator and of the device's, as byte tensors."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore(states: dict[str, Tensor], device: torch.device) -> None:
    """Put back what :func:`capture` took; a state of a device that is not there is left out."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


@contextmanager
def untouched(device: torch.device) -> Iterator[None]:
    """Inside, draws from the global generators do not change what training draws afterwards."""
    states = capture(device)
    try:
        yield
    finally:
        restore(states, device)
