"""Optimisers that a recipe names: thin, typed faces of torch's own.

``Adam``: Kingma and Ba, "Adam: A Method for Stochastic Optimization", arXiv 1412.6980.
``AdamW``: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import nn


class Optimiser(ABC):
    """The settings of an optimiser; the trainer builds one for each phase of the task."""

    @abstractmethod
    def build(self, parameters: Sequence[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        """An optimiser over ``parameters`` (already on their device) with the peak learning rate ``lr``."""


def _fused(parameters: Sequence[nn.Parameter]) -> bool:
    """One kernel for all parameters, where torch has it; it saves launches on a GPU and a Python loop on a CPU."""
    kinds = {parameter.device.type for parameter in parameters}
    return len(kinds) == 1 and kinds <= {"cuda", "cpu"} and all(p.is_floating_point() for p in parameters)


class Adam(Optimiser):
    """Adam.

    Args:
        betas: decay of the first and the second moment, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: L2 penalty added to the gradient.
    """

    def __init__(self, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0) -> None:
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay

    def build(self, parameters: Sequence[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        """See :class:`Optimiser`."""
        return torch.optim.Adam(
            parameters, lr=lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, fused=_fused(parameters)
        )


class SGD(Optimiser):
    """Steps along the gradient itself: for parameters that are to follow a flow, which moments would distort.

    Args:
        momentum: decay of the running gradient, in [0, 1).
        weight_decay: L2 penalty added to the gradient.
    """

    def __init__(self, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        self.momentum, self.weight_decay = momentum, weight_decay

    def build(self, parameters: Sequence[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        """See :class:`Optimiser`."""
        return torch.optim.SGD(
            parameters, lr=lr, momentum=self.momentum, weight_decay=self.weight_decay, fused=_fused(parameters)
        )


class AdamW(Optimiser):
    """Adam with decoupled weight decay.

    Args:
        betas: decay of the first and the second moment, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: fraction of a weight taken off per step, times the learning rate.
        decay_vectors: decay biases and gains (tensors with one axis) too; most recipes leave them alone.
    """

    def __init__(
        self,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        decay_vectors: bool = False,
    ) -> None:
        self.betas, self.eps, self.weight_decay, self.decay_vectors = betas, eps, weight_decay, decay_vectors

    def build(self, parameters: Sequence[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        """See :class:`Optimiser`."""
        decayed = [p for p in parameters if self.decay_vectors or p.ndim > 1]
        spared = [p for p in parameters if not (self.decay_vectors or p.ndim > 1)]
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": spared, "weight_decay": 0.0}]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=lr,
            betas=self.betas,
            eps=self.eps,
            fused=_fused(parameters),
        )
