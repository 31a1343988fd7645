"""torchcfm's flow matching with our network, data and batch: the loop of its examples, as fast as we can write it."""

from __future__ import annotations

import importlib.util
import math
import sys
import time
import types
from typing import Any

import torch
from torch import (
    Tensor,
    _foreach_lerp_,  # pyright: ignore[reportPrivateImportUsage]
    nn,
)

from benchmarks.pictures.costs import autocast, wait
from flowkit.cond import Cond
from flowkit.nn.network import Network


def matcher() -> Any:
    """``ConditionalFlowMatcher(sigma=0)``; its module imports POT at once, which plain flow matching never calls."""
    if "ot" not in sys.modules and importlib.util.find_spec("ot") is None:
        sys.modules["ot"] = types.ModuleType("ot")
    from torchcfm.conditional_flow_matching import (  # pyright: ignore[reportMissingImports]
        ConditionalFlowMatcher,
    )

    return ConditionalFlowMatcher(sigma=0.0)


class Rival:
    """A training of torchcfm's: batches are gathered on the device, bf16, AdamW, clipping, averaged weights.

    Args:
        network: of ours, for one state and one time.
        data: all training pictures in [-1, 1], on the device.
        batch: size.
        lr: peak learning rate.
        ema: decay of the averaged weights.
        seed: of order, noise and times.
    """

    def __init__(self, network: Network, data: Tensor, *, batch: int, lr: float, ema: float, seed: int) -> None:
        self.network, self.data, self.batch, self.lr, self.decay = network, data, batch, lr, ema
        self.device, self.matcher, self.count = data.device, matcher(), 0
        torch.manual_seed(seed)
        self.parameters = list(network.parameters())
        self.average = [p.detach().clone() for p in self.parameters]
        decayed, spared = [p for p in self.parameters if p.ndim > 1], [p for p in self.parameters if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": spared, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=lr, fused=True)

    def __call__(self, share: float = 0.0, warmup: int = 200) -> None:
        """One step; ``share`` of the training is over."""
        self.count += 1
        rate = self.count / warmup if self.count < warmup else 0.5 * (1.0 + math.cos(math.pi * share))
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr * rate
        x1 = self.data[torch.randint(len(self.data), (self.batch,), device=self.device)]
        t, xt, ut = self.matcher.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
        with autocast(self.device):
            v = self.network((xt,), (t,), Cond())["v"]
            loss = (v - ut).square().mean()
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        _foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1.0 - decay)

    def train(self, seconds: float, steps: int = 10**9) -> float:
        """Train for a time, the rate falling to 0; returns the seconds taken. The network gets the averaged weights."""
        self.network.train()
        wait(self.device)
        began, gone = time.perf_counter(), 0.0
        while gone < seconds and self.count < steps:
            self(max(gone / seconds, self.count / steps))
            if self.count % 20 == 0:
                wait(self.device)
            gone = time.perf_counter() - began
        wait(self.device)
        gone = time.perf_counter() - began
        with torch.no_grad():
            for mine, averaged in zip(self.parameters, self.average, strict=True):
                mine.copy_(averaged)
        self.network.eval()
        return gone
