"""CUDA graphs of the loss and its gradients: one captured program for each shape of a batch.

A small network on a fast GPU waits for the host, which launches thousands of short kernels a step. A captured graph
launches them all at once. The first batch of a shape runs as always (and warms up what is compiled on use), the second
is captured, and from then on batches of that shape are replayed. Draws stay a function of (seed, step): the seed of
:class:`flowkit.random.Rows` lives in a tensor that each replay reads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import (
    Tensor,
    _foreach_copy_,  # pyright: ignore[reportPrivateImportUsage]
    nn,
)

from flowkit.data import RawBatch
from flowkit.random import Rows
from flowkit.train.gradients import FlatGradients
from flowkit.train.loader import Part

_Key = tuple[Any, ...]


class _Captured:
    """One graph with its input, its seed and its results."""

    def __init__(self, raw: dict[str, Tensor], seed: Tensor) -> None:
        self.raw, self.seed = raw, seed
        self.graph = torch.cuda.CUDAGraph()
        self.total = torch.empty(0)
        self.terms: dict[str, Tensor] = {}


class StepGraphs:
    """Forward and backward of a process, replayed where the shape was seen before.

    Each process captures its own shapes; :meth:`reduce` then averages the gradients over the processes. They accumulate
    into buffers that exist from the start, so the optimiser must zero them, never drop them. The task may read tensors
    of the raw batch only, and neither it nor its objective may let the step's number or a host value of the batch
    decide what is computed (an objective says so by ``capturable``).

    Args:
        accelerator: of the run.
        model: the prepared loss module, without DDP around it.
        limit: graphs to keep; batches of further shapes run as always.
    """

    def __init__(self, accelerator: Any, model: nn.Module, *, limit: int = 96) -> None:
        self.accelerator, self.model, self.limit = accelerator, model, limit
        self.stream = torch.cuda.Stream()
        self.pool = torch.cuda.graph_pool_handle()
        self._captured: dict[_Key, _Captured] = {}
        self._seen: set[_Key] = set()
        self.gradients = FlatGradients(model, accelerator.num_processes)
        #: Average the gradients over the processes: once, after the last micro-batch of a step.
        self.reduce = self.gradients.reduce

    def __call__(self, part: Part, raw: RawBatch, phase: str, step: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its terms of one micro-batch; gradients are added to the parameters'."""
        tensors = {name: value for name, value in raw.items() if isinstance(value, Tensor)}
        shapes = tuple((name, tuple(value.shape), value.dtype) for name, value in sorted(tensors.items()))
        key = (phase, part.first, part.total, shapes)
        if key not in self._captured and (key not in self._seen or len(self._captured) >= self.limit):
            self._seen.add(key)
            # On the stream of the captures: what autograd keeps between steps must not belong to another one.
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                total, terms = self.model(tensors, phase, step, Rows(seed, first=part.first, total=part.total))
                self.accelerator.backward(total)
            torch.cuda.current_stream().wait_stream(self.stream)
            return total.detach(), {name: value.detach() for name, value in terms.items()}
        if key not in self._captured:
            self._captured[key] = self._capture(part, tensors, phase, step)
        captured = self._captured[key]
        captured.seed.fill_(seed)
        _foreach_copy_(list(captured.raw.values()), [tensors[name] for name in captured.raw], non_blocking=True)
        captured.graph.replay()
        # The next replay overwrites the results.
        return captured.total.clone(), {name: value.clone() for name, value in captured.terms.items()}

    def _capture(self, part: Part, raw: dict[str, Tensor], phase: str, step: int) -> _Captured:
        captured = _Captured(
            {name: value.clone() for name, value in raw.items()},
            torch.zeros((), dtype=torch.int64, device=self.accelerator.device),
        )
        rows = Rows(captured.seed, first=part.first, total=part.total)
        # thread_local: the reading thread may pin memory meanwhile, which the stricter mode takes for a mistake.
        with torch.cuda.graph(captured.graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            total, terms = self.model(captured.raw, phase, step, rows)
            self.accelerator.backward(total)
        captured.total, captured.terms = total.detach(), {name: value.detach() for name, value in terms.items()}
        return captured
