"""What all processes of a training decide together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from flowkit.errors import UserError

T = TypeVar("T")


class Together:
    """The processes of one training.

    Args:
        accelerator: of the run.
    """

    def __init__(self, accelerator: Any) -> None:
        self.main: bool = accelerator.is_main_process
        self.rank: int = accelerator.process_index
        self.count: int = accelerator.num_processes

    def tell(self, value: T) -> T:
        """The first process's ``value``, on all."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def all(self, value: T) -> list[T]:
        """The values of all, by their number."""
        if self.count == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def same(self, value: object, what: str) -> None:
        """See that all processes have the same ``value``.

        Raises:
            UserError: one has another; ``what`` says other what, and the way out.
        """
        values = self.all(value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise UserError(f"process {rank} has {other}, process 0 {values[0]}: they have other {what}")

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """What is inside succeeds on all processes, or fails on all: with its own error where there was one.

        Raises:
            UserError: another process failed.
        """
        trouble: Exception | None = None
        try:
            yield
        except Exception as error:
            trouble = error
        told = self.all(None if trouble is None else f"{trouble}")
        if trouble is not None:
            raise trouble
        for rank, text in enumerate(told):
            if text is not None:
                raise UserError(text if self.count == 1 else f"process {rank}: {text}")
