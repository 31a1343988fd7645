"""Pairs for the tests: a field of which every pair is known. As a script it makes them and is killed on the way.

The data are ragged and conditioned, v(x, t) = mu: so x1 - x0 = mu on every real element.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowkit.cond import Cond
from flowkit.couplings.coupling import Batch
from flowkit.nn.network import Network, NetworkSpec
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.objective import Networks
from flowkit.procedures.pair_store import PairStore
from flowkit.procedures.pairs import PairPlan, generate_pairs
from flowkit.solvers.sampler import Sampler

PLAN = PairPlan(pairs=50, shard=20, batch=8, seed=3)


class Drift(Network):
    """v = mu; not a number for samples whose label is in ``broken``."""

    def __init__(self, broken: Sequence[int] = ()) -> None:
        super().__init__(NetworkSpec())
        self.broken = torch.tensor(list(broken), dtype=torch.long)

    def forward(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        bad = torch.isin(cond["label"], self.broken)[:, None, None]
        return {"v": cond["mu"].where(~bad, torch.tensor(float("nan")))}


def length(number: int) -> int:
    """Real elements of a pair, a function of its number."""
    return 3 + (7 * number) % 10


def lengths(numbers: Sequence[int]) -> np.ndarray:
    return np.asarray([length(number) for number in numbers])


def mu(number: int) -> Tensor:
    """(2, length)."""
    return torch.randn(2, length(number), generator=torch.Generator().manual_seed(number))


def inputs(numbers: Sequence[int]) -> Batch:
    """A padded batch with its condition; the padding of mu holds junk."""
    longest = max(length(number) for number in numbers)
    means = torch.full((len(numbers), 2, longest), 77.0)
    real = torch.zeros(len(numbers), 1, longest, dtype=torch.bool)
    for row, number in enumerate(numbers):
        means[row, :, : length(number)], real[row, :, : length(number)] = mu(number), True
    cond = Cond({"mu": means, "label": torch.tensor(list(numbers))}, padding=real, nulls={"label": 50})
    return Batch(x1=torch.full_like(means, float("nan")), cond=cond, weight=torch.tensor(list(numbers)) + 0.5)


def make(folder: Path, *, broken: Sequence[int] = (), plan: PairPlan = PLAN, **options: Any) -> PairStore:
    """The store of the tests in ``folder``."""
    options = {"provenance": {"teacher": "abc"}, "lengths": lengths, "sampler": Sampler(steps=2), **options}
    return generate_pairs(folder, FlowMatching(), Networks({"main": Drift(broken)}), inputs, plan=plan, **options)


if __name__ == "__main__":
    torch.set_num_threads(1)
    last = int(sys.argv[2])
    make(
        Path(sys.argv[1]), on_progress=lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done > last else None
    )
