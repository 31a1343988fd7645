"""Gradients in one buffer of each kind of number, averaged over the processes by one collective call.

For captured steps (:mod:`flowkit.train.graphs`), which DDP's hooks do not fit: a step's gradients are there at once.
What DDP hides behind the backward pass costs this one exchange: bytes of the parameters over the links' speed.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import (
    Tensor,
    _foreach_copy_,  # pyright: ignore[reportPrivateImportUsage]
    nn,
)

#: Bytes on whose multiples each gradient begins, for the widest loads of a GPU.
_ALIGNED = 64


@dataclass(frozen=True)
class _Kind:
    """What is exchanged of one type on one device: gradients, behind them statistics."""

    flat: Tensor
    #: The parts of ``flat`` that hold gradients, and statistics.
    gradients: Tensor
    rest: Tensor
    buffers: list[Tensor]
    #: The places of ``buffers`` in ``rest``.
    places: list[Tensor]


class FlatGradients:
    """Gives every learning parameter of ``model`` a zero gradient that is a view of one buffer.

    With several processes the weights and buffers of process 0 go to all at the start. The optimiser must zero the
    gradients, never drop them.

    Args:
        model: on its device.
        processes: how many there are; with one, nothing is exchanged.
    """

    def __init__(self, model: nn.Module, processes: int = 1) -> None:
        self.processes = processes
        parameters: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = defaultdict(list)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameters[parameter.dtype, parameter.device].append(parameter)
        buffers: dict[tuple[torch.dtype, torch.device], list[Tensor]] = defaultdict(list)
        for buffer in _moving(model) if processes > 1 else ():
            buffers[buffer.dtype, buffer.device].append(buffer)
        self._kinds = [
            _lay_out(kind, parameters[kind], buffers[kind]) for kind in dict.fromkeys([*parameters, *buffers])
        ]
        self.flat = [kind.flat for kind in self._kinds]
        if processes > 1:
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor.detach(), src=0)

    def reduce(self) -> None:
        """Average the gradients over the processes; running statistics become those of process 0, as DDP has it."""
        if self.processes == 1:
            return
        first = dist.get_rank() == 0
        for kind in self._kinds:
            kind.gradients.div_(self.processes)
            # Statistics ride along: the others add zeros, so the sum is what process 0 has, bit for bit.
            if first and kind.buffers:
                _foreach_copy_(kind.places, kind.buffers)
            elif kind.buffers:
                kind.rest.zero_()
            dist.all_reduce(kind.flat)
            if kind.buffers and not first:
                _foreach_copy_(kind.buffers, kind.places)


def _moving(model: nn.Module) -> list[Tensor]:
    """Statistics that training may move. What no checkpoint holds cannot be among them, or no run could be resumed:
    tables of frequencies and the like.
    """
    kept = model.state_dict().keys()
    found = {id(b): b for name, b in model.named_buffers(remove_duplicate=False) if name in kept}
    return [buffer for buffer in found.values() if buffer.is_floating_point()]


def _lay_out(
    kind: tuple[torch.dtype, torch.device], parameters: list[nn.Parameter], buffers: list[Tensor]
) -> _Kind:  # fmt: skip
    """One buffer for all of a kind; the parameters get their gradients in it."""
    dtype, device = kind
    step = max(_ALIGNED // dtype.itemsize, 1)
    sizes = [-(-tensor.numel() // step) * step for tensor in (*parameters, *buffers)]
    flat = torch.zeros(sum(sizes), dtype=dtype, device=device)
    pieces = [
        piece[: tensor.numel()].view(tensor.shape)
        for tensor, piece in zip((*parameters, *buffers), flat.split(sizes), strict=True)
    ]
    for parameter, piece in zip(parameters, pieces, strict=False):
        parameter.grad = piece
    cut = sum(sizes[: len(parameters)])
    return _Kind(flat, flat[:cut], flat[cut:], buffers, pieces[len(parameters) :])
