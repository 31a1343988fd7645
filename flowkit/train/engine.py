"""accelerate, set up for a run: device, precision, processes."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from flowkit.data import RawBatch
from flowkit.errors import UserError
from flowkit.objectives.objective import Loss
from flowkit.procedures.pair_data import is_pairs
from flowkit.random import RandomSource
from flowkit.tasks import Task

if TYPE_CHECKING:
    from flowkit.train.sharding import Sharded

#: YAML reads a bare ``no`` as false, so that is accepted for it.
Precision = Literal["fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu"]
#: ddp: every process keeps all weights; fsdp: each keeps a part of them (:mod:`flowkit.train.sharding`).
Parallel = Literal["ddp", "fsdp"]
#: How long a process may wait for another: the first one prepares data and measures. Failures are noticed otherwise.
_PATIENCE = timedelta(hours=6)


class LossModule(nn.Module):
    """A task whose forward returns plain tuples and dictionaries, which DDP and mixed precision see through."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        #: The precision of a model that accelerate does not prepare.
        self.accelerator: Any = None

    def _precision(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.accelerator is None else self.accelerator.autocast()

    def forward(
        self, raw: RawBatch, phase: str, step: int, generator: RandomSource
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its terms."""
        with self._precision():
            loss = loss_of(self.task, raw, phase=phase, step=step, generator=generator)
        return loss.total, dict(loss.terms)


def loss_of(task: Task, raw: RawBatch, *, phase: str, step: int, generator: RandomSource) -> Loss:
    """The task's loss of its own data, of pairs, or of a teacher's lessons on its own data."""
    if is_pairs(raw):
        return task.pair_loss(raw, phase=phase, step=step, generator=generator)
    of = task.lesson_loss if task.objective.teacher is not None else task
    return of(raw, phase=phase, step=step, generator=generator)


def join(device: Device) -> Any:
    """accelerate's ``PartialState``: this process has found the others of its launch."""
    from accelerate.state import PartialState

    if PartialState._shared_state or "WORLD_SIZE" not in os.environ:
        return PartialState(cpu=device == "cpu")
    # Without a GPU, and not told to use CPUs, accelerate takes each process of a launch for a training of its own.
    return PartialState(cpu=device == "cpu" or not torch.accelerator.is_available(), timeout=_PATIENCE)


def leave() -> None:
    """Take leave of the other processes of the launch, once nothing more is done together; NCCL complains otherwise.

    Only after success: a group that is taken apart waits for what is under way in it, and after a failure that may
    never end. The system closes the connections of a process that has failed.
    """
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        from accelerate.state import AcceleratorState

        distributed.destroy_process_group()
        # What accelerate remembers of the group is no longer true.
        AcceleratorState._reset_state(reset_partial_state=True)


def start(
    *, precision: Precision, device: Device, accumulate: int, several_phases: bool, parallel: Parallel = "ddp"
) -> Any:
    """An ``Accelerator``; several trainings may follow each other in one process.

    Raises:
        UserError: the precision does not fit the device, or the launch asks for sharding and the recipe does not.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType
    from accelerate.state import AcceleratorState

    if parallel == "fsdp":
        # The recipe rules: accelerate is to find the processes only, whatever sharding a launch configures.
        os.environ.pop("ACCELERATE_USE_FSDP", None)
    state = join(device)
    if precision == "fp16" and str(state.device) == "cpu":
        raise UserError("trainer.precision fp16 needs a GPU: use bf16 or fp32")
    if AcceleratorState._shared_state:
        # A training before this one, in the same process, may have used another precision.
        AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision="no" if precision == "fp32" else precision,
        gradient_accumulation_steps=accumulate,
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=several_phases, gradient_as_bucket_view=True)
        ],
    )
    if accelerator.distributed_type == DistributedType.FSDP:
        raise UserError("the launch asks for FSDP: set trainer.parallel to fsdp, or launch without it")
    if accelerator.distributed_type not in (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU):
        raise UserError(
            f"the launch asks for {accelerator.distributed_type.value}; this trainer knows one process, DDP and "
            "FSDP: use torchrun, or accelerate launch --multi_gpu"
        )
    return accelerator


def shard(accelerator: Any, whole: Task, copied: Task) -> tuple[nn.Module, Sharded]:
    """The loss of ``copied``, a copy of ``whole``, under FSDP."""
    from flowkit.train.sharding import Sharded

    model = LossModule(copied)
    model.accelerator = accelerator
    return model, Sharded(whole, copied, model, accelerator.device)


def to_device(raw: RawBatch, device: torch.device) -> RawBatch:
    """Tensors moved without waiting; lists of texts and names stay."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value for name, value in raw.items()
    }
