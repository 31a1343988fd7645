"""Gradients in one buffer of each kind of number, averaged over the processes by one collective call.

For captured steps (:mod:`flowkit.train.graphs`), which DDP's hooks do not fit: a step's gradients are there at once.
What DDP hides behind the backward pass costs this one exchange: bytes of the parameters over the links' speed.
"""

from __future__ import annotations

from collections import defaultdict

import torch
import torch.distributed as dist
from torch import Tensor, nn

#: Bytes on whose multiples each gradient begins, for the widest loads of a GPU.
_ALIGNED = 64


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
        kinds: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = defaultdict(list)
        for parameter in model.parameters():
            if parameter.requires_grad:
                kinds[parameter.dtype, parameter.device].append(parameter)
        self.flat: list[Tensor] = []
        for (dtype, device), parameters in kinds.items():
            step = max(_ALIGNED // dtype.itemsize, 1)
            sizes = [-(-parameter.numel() // step) * step for parameter in parameters]
            flat = torch.zeros(sum(sizes), dtype=dtype, device=device)
            for parameter, place in zip(parameters, flat.split(sizes), strict=True):
                parameter.grad = place[: parameter.numel()].view_as(parameter)
            self.flat.append(flat)
        #: Statistics that training moves; constants travel once.
        self._moving = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        if processes > 1:
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor.detach(), src=0)

    def reduce(self) -> None:
        """Average the gradients over the processes; running statistics become those of process 0, as DDP has it."""
        if self.processes == 1:
            return
        for flat in self.flat:
            dist.all_reduce(flat.div_(self.processes))
        if self._moving:
            # One small message: their number counts, not their size.
            packed = torch.cat([buffer.flatten().float() for buffer in self._moving])
            dist.broadcast(packed, src=0)
            parts = packed.split([buffer.numel() for buffer in self._moving])
            for buffer, part in zip(self._moving, parts, strict=True):
                buffer.copy_(part.view_as(buffer))
