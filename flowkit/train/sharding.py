"""Fully sharded data parallelism (FSDP2): each process keeps a part of parameters, gradients, moments and averages.

Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", arXiv 2304.11277. What is trained is a
copy of the user's task, whose blocks are gathered one after the other while they compute. The task itself stays whole
on every process: it takes the weights over where results are judged, shown, saved and handed back.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import (
    Tensor,
    _foreach_mul_,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_norm,  # pyright: ignore[reportPrivateImportUsage]
    distributed,
    nn,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from flowkit.tasks import Task
from flowkit.train.blocks import blocks


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor; any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered from all processes (all must ask); any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def cut(whole: Tensor, pattern: Tensor) -> Tensor:
    """``whole`` divided as ``pattern`` is (each process has all of it); as it is where shapes differ or it is so
    already."""
    if isinstance(whole, DTensor) or not isinstance(pattern, DTensor) or whole.shape != pattern.shape:
        return whole
    return distribute_tensor(
        whole.detach().to(pattern.device), pattern.device_mesh, pattern.placements, src_data_rank=None
    )


@torch.no_grad()
def load_state(task: Task, state: Mapping[str, Tensor]) -> None:
    """``task.load_state_dict`` of whole tensors, whether the task is divided or not; raises ``RuntimeError`` as it."""
    own = task.state_dict()
    if not any(isinstance(value, DTensor) for value in own.values()):
        task.load_state_dict(dict(state))
        return
    for name in sorted({*own, *state}):
        if name not in own or name not in state or own[name].shape != state[name].shape:
            raise RuntimeError(f"{name} is missing, unexpected or of another shape")
        own[name].copy_(cut(state[name], own[name]))


def copy_of(task: Task) -> Task:
    """A copy to be sharded; a teacher, which learns nothing, is shared."""
    teacher = task.objective.teacher
    return copy.deepcopy(task, {} if teacher is None else {id(teacher): teacher})


class Sharded:
    """A task and its sharded copy.

    Args:
        whole: the user's task; stays on the CPU but where it is judged.
        copied: its copy (:func:`copy_of`), a part of ``model``.
        model: the loss module around the copy; its blocks and it itself are sharded here, in place.
        device: of this process.
    """

    def __init__(self, whole: Task, copied: Task, model: nn.Module, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self.whole, self.copied, self.device = whole, copied, device
        mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
        # Scalars cannot be cut: each process keeps them, and their gradients are averaged here.
        scalars = {p for p in copied.parameters() if p.ndim == 0}
        # A second differentiation finds a block's weights gone again: then all are gathered for the whole step.
        for _, block in [] if copied.objective.differentiates else blocks(copied):
            fully_shard(block, mesh=mesh, ignored_params=scalars)
        fully_shard(model, mesh=mesh, ignored_params=scalars)
        for scalar in scalars:
            scalar.data = scalar.data.to(device)

    @torch.no_grad()
    def synchronise(self) -> None:
        """Buffers become those of the first process, as under DDP."""
        kinds: dict[torch.dtype, list[Tensor]] = {}
        for buffer in self.copied.buffers():
            if buffer.numel():
                kinds.setdefault(buffer.dtype, []).append(buffer)
        for dtype, buffers in kinds.items():
            flat = torch.cat([buffer.flatten() for buffer in buffers])
            sent = flat.to(torch.uint8) if dtype == torch.bool else flat
            distributed.broadcast(sent, 0)
            for buffer, values in zip(buffers, sent.to(dtype).split([b.numel() for b in buffers]), strict=True):
                buffer.copy_(values.view_as(buffer))

    @torch.no_grad()
    def gather(self) -> None:
        """The task takes over the copy's weights and buffers; all processes must call it."""
        mine = {**dict(self.whole.named_parameters()), **dict(self.whole.named_buffers())}
        theirs = {**dict(self.copied.named_parameters()), **dict(self.copied.named_buffers())}
        for name, tensor in theirs.items():
            mine[name].copy_(full(tensor))

    def average_scalars(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average the gradients of those ``parameters`` that are not sharded."""
        for parameter in parameters:
            if not isinstance(parameter, DTensor) and parameter.grad is not None:
                distributed.all_reduce(parameter.grad)
                parameter.grad /= distributed.get_world_size()


@torch.no_grad()
def clip(parameters: Sequence[nn.Parameter], largest: float) -> Tensor:
    """Scale the gradients so that their norm over all processes is at most ``largest``; returns the norm before."""
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for parameter in parameters:
        if parameter.grad is not None:
            parts[isinstance(parameter.grad, DTensor)].append(local(parameter.grad))
    device = parameters[0].device
    squares = [
        torch.stack(_foreach_norm(grads)).square().sum() if grads else torch.zeros((), device=device) for grads in parts
    ]
    distributed.all_reduce(squares[1])
    norm = (squares[0] + squares[1]).sqrt()
    grads: list[Any] = [*parts[0], *parts[1]]
    if grads:
        _foreach_mul_(grads, (largest / (norm + 1e-6)).clamp(max=1.0))
    return norm
