"""The large repeated parts of a task's networks: what is gathered, or computed again, one at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

#: A part with a smaller share of the task's parameters is no block: every block costs a message.
_LEAST = 1 / 256


def blocks(task: nn.Module) -> list[tuple[str, nn.Module]]:
    """Name and module of each block: the elements of ``ModuleList`` and ``Sequential`` that have layers of their own
    (the stages of a U-Net, the layers of a Transformer), outermost first.

    They are called, and by nothing but their ``forward``. Parts that share a parameter with the rest are none.
    """
    shared = Counter(id(p) for _, p in task.named_parameters(remove_duplicate=False))
    least = sum(p.numel() for p in task.parameters()) * _LEAST
    found: list[tuple[str, nn.Module]] = []

    def fits(module: nn.Module) -> bool:
        inside = Counter(id(p) for _, p in module.named_parameters(remove_duplicate=False))
        sizes = sum(p.numel() for p in module.parameters())
        composed = any(True for _ in module.children()) and not isinstance(module, nn.ModuleList | nn.ModuleDict)
        return composed and sizes > 0 and sizes >= least and all(inside[key] == shared[key] for key in inside)

    def visit(name: str, module: nn.Module) -> None:
        listed = isinstance(module, nn.ModuleList | nn.Sequential)
        for key, child in module.named_children():
            path = f"{name}.{key}" if name else key
            if listed and fits(child):
                found.append((path, child))
            else:
                visit(path, child)

    visit("", task)
    return found


def recompute(modules: Sequence[nn.Module]) -> Callable[[], None]:
    """Keep only the inputs of ``modules`` for the backward pass, which computes the rest again with the same dropout.

    Returns:
        What takes it back.
    """
    for module in modules:
        module.forward = _recomputed(module.forward)  # pyright: ignore[reportAttributeAccessIssue]

    def undo() -> None:
        for module in modules:
            module.__dict__.pop("forward", None)

    return undo


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run
