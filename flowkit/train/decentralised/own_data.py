"""Batches where each agent draws from data of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from flowkit.errors import UserError
from flowkit.random import mix_seed
from flowkit.train.decentralised.topology import Split
from flowkit.train.loader import Order, Taken
from flowkit.train.order import Nearby

_SHARE = 0xA6E7


class OwnOrder(Order):
    """Which samples make each global batch: agent n's rows, one agent's after the other's, from its share alone.

    In an epoch each agent sees every sample of its share once, but for what does not fill a batch. Shares differ by at
    most one sample.

    Args:
        size: number of samples.
        batch: samples of a global batch, of all agents together.
        seed: of the whole training.
        lengths, multiple, begun, near: see :class:`flowkit.train.loader.Order`, here of each agent's share.
        agents: their number.
        blocks: shares are runs of consecutive samples, instead of random ones.

    Raises:
        UserError: there are fewer samples than agents.
    """

    def __init__(
        self, size: int, batch: int, seed: int, lengths: np.ndarray | None = None, multiple: int = 0,
        begun: tuple[int, Sequence[Taken]] | None = None, near: Nearby | None = None, *, agents: int, blocks: bool,
    ) -> None:  # fmt: skip
        if size < agents:
            raise UserError(f"the training split has {size} samples: too few for {agents} agents")
        everything = torch.arange(size)
        if not blocks:
            everything = torch.randperm(size, generator=torch.Generator().manual_seed(mix_seed(seed, _SHARE)))
        self.shares = list(everything.tensor_split(agents))
        if begun is not None:
            epoch, taken = begun
            begun = epoch, [each._replace(batch=each.batch // agents) for each in taken]
        self.own = [
            Order(
                len(share), batch // agents, mix_seed(seed, _SHARE, n),
                None if lengths is None else np.asarray(lengths)[share.numpy()], multiple, begun,
                None if near is None else near.of(share),
            )
            for n, share in enumerate(self.shares)
        ]  # fmt: skip
        self.size, self.batch, self.seed = size, batch, seed
        self.begun = -1 if begun is None else begun[0]
        self.batches = min(order.batches for order in self.own)

    def count(self, epoch: int) -> int:
        return min(order.count(epoch) for order in self.own)

    def __call__(self, epoch: int, index: int) -> Tensor:
        return torch.cat([share[order(epoch, index)] for share, order in zip(self.shares, self.own, strict=True)])


def order_of(split: Split, agents: int) -> Callable[..., Order]:
    """What makes the order of the data under ``split``; takes the arguments of ``Order``."""
    return Order if split == "shared" else partial(OwnOrder, agents=agents, blocks=split == "blocks")
