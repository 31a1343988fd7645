"""Sharded tensors on disk: every process writes its parts, any number of processes reads them.

By ``torch.distributed.checkpoint`` as safetensors, one file a process; nothing is pickled.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from flowkit import atomic


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remarks; its own kind of error becomes the first process's that failed."""
    from torch.distributed.checkpoint.api import CheckpointException

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except CheckpointException as trouble:
            rank, (error, _) = min(trouble.failures.items(), key=lambda item: item[0])
            if isinstance(error, Exception):
                raise error from None
            raise RuntimeError(f"process {rank}: {error}") from None


def write(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write ``tensors`` into ``folder``; all processes must call it, each with its parts of the same names."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    with _quiet():
        save(
            {name: tensor.detach() for name, tensor in tensors.items()},
            storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True),
        )


def sync(folder: Path) -> None:
    """Wait until the files that any process wrote are on the disk."""
    for path in folder.iterdir():
        path.chmod(0o644)
        atomic.sync(path)


def shapes(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Whole shape and dtype of each tensor in ``folder``."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {
        name: (facts.size, facts.properties.dtype)
        for name, facts in found.items()
        if isinstance(facts, TensorStorageMetadata)
    }


def read(folder: Path, tensors: Mapping[str, Tensor], *, together: bool) -> None:
    """Fill ``tensors`` (sharded or whole, of the shapes that were written) from ``folder``.

    Args:
        folder: that :func:`write` filled.
        tensors: name -> where to put it; names must have been written.
        together: all processes read, each its parts (they must all call it); otherwise this one alone.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    with _quiet():
        load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=not together)
