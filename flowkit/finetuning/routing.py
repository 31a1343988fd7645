"""Several adapters in one batch: each sample is computed with its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from flowkit.errors import UserError, nearest
from flowkit.finetuning import layers

#: The name of the model without an adapter.
BASE = "base"
_PEFT_BASE = "__base__"


@contextmanager
def routed(task: nn.Module, which: Sequence[str]) -> Iterator[None]:
    """Inside, sample i of a batch is computed with the adapter ``which[i]`` (``base``: with none)::

        with routed(predictor.task, ["street", "base", "kitchen"]):
            predictor(context, frames=10)  # of three samples

    The batch may also hold the samples several times over, one copy after the other (guidance). Sampling needs fixed
    steps: an adaptive controller takes finished samples out of the batch.

    Raises:
        UserError: there is no such adapter, or (inside) a batch has other rows than these samples.
    """
    there = layers.names(task)
    for name in which:
        if name not in (*there, BASE):
            raise UserError(f"the model has no adapter {name!r}; {nearest(name, [*there, BASE])}")
    called = [_PEFT_BASE if name == BASE else name for name in which]
    rows: dict[int, int] = {}

    def choose(layer: nn.Module, given: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        x: Tensor = given[0]
        copies, rest = divmod(x.shape[0], max(len(called), 1))
        # The number of copies is a layer's own and stays: rows that went missing must not pass for fewer copies.
        if rest or not copies or rows.setdefault(id(layer), copies) != copies:
            raise UserError(
                f"{len(called)} adapters were named, one a sample, and the batch has {x.shape[0]} rows: name one for "
                "each sample, and sample with fixed steps"
            )
        return given, {**options, "adapter_names": called * copies}

    hooks = [layer.register_forward_pre_hook(choose, with_kwargs=True) for _, layer in layers.adapted(task)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
