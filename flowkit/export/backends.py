"""The formats: how a traced program is written, and how its file is run."""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.config import plugins
from flowkit.errors import UserError

#: What one run of a program takes and gives: arrays by name.
Arrays = dict[str, np.ndarray]


class Runner(ABC):
    """A program's file, opened."""

    @abstractmethod
    def __call__(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> Arrays:
        """Run it; ``inputs`` in the order of the program."""


class Backend(ABC):
    """One format."""

    #: Of its files.
    suffix: str

    @abstractmethod
    def check(self) -> None:
        """Raise a ``UserError`` where packages are missing."""

    @abstractmethod
    def write(self, program: Any, path: Path, *, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Write a ``torch.export.ExportedProgram``."""

    @abstractmethod
    def open(self, path: Path, *, threads: int = 0) -> Runner:
        """Open a file; ``threads`` 0 leaves their number to the runtime."""


class TorchBackend(Backend):
    """``.pt2``: read by torch without FlowKit's code, on any device."""

    suffix = ".pt2"

    def check(self) -> None:
        pass

    def write(self, program: Any, path: Path, *, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        import torch

        torch.export.save(program, str(path))

    def open(self, path: Path, *, threads: int = 0) -> Runner:
        import torch

        try:
            with quiet():
                return _TorchRunner(torch.export.load(str(path)).module())
        except Exception as error:  # torch names no class for a damaged archive
            raise _damaged(path, error) from None


class _TorchRunner(Runner):
    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> Arrays:
        import torch

        with torch.no_grad():
            made = self.module(*(torch.from_numpy(np.ascontiguousarray(value)) for value in inputs.values()))
        made = made if isinstance(made, (tuple, list)) else (made,)
        return {name: value.numpy() for name, value in zip(outputs, made, strict=True)}


class OnnxBackend(Backend):
    """``.onnx``: run by onnxruntime, here on the CPU."""

    suffix = ".onnx"

    def check(self) -> None:
        import importlib

        for package in ("onnx", "onnxscript", "onnxruntime"):
            try:
                importlib.import_module(package)
            except ImportError:
                raise UserError(
                    f"ONNX needs the package {package}: pip install 'flowkit-fm[export]' (--format torch needs none)"
                ) from None

    def write(self, program: Any, path: Path, *, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        import torch

        with quiet():
            made = torch.onnx.export(
                program, dynamo=True, input_names=list(inputs), output_names=list(outputs), verbose=False,
                optimize=False,
            )  # fmt: skip
            assert made is not None
            for node in made.model.graph.all_nodes():
                node.metadata_props.clear()  # the source lines of this machine
            made.save(str(path))

    def open(self, path: Path, *, threads: int = 0) -> Runner:
        try:
            import onnxruntime
        except ImportError:
            raise UserError("ONNX needs the package onnxruntime: pip install 'flowkit-fm[export]'") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            return _OnnxRunner(onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))
        except Exception as error:  # onnxruntime's own errors have no common class
            raise _damaged(path, error) from None


class _OnnxRunner(Runner):
    def __init__(self, session: Any) -> None:
        self.session = session

    def __call__(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> Arrays:
        return dict(zip(outputs, self.session.run(list(outputs), dict(inputs)), strict=True))


#: Formats by the name that ``flowkit export --format`` takes.
BACKENDS: dict[str, Backend] = {"onnx": OnnxBackend(), "torch": TorchBackend()}


def _damaged(path: Path, error: object) -> UserError:
    return UserError(f"{path} cannot be read, it is damaged or of another version: {plugins.one_line(error)[:200]}")


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters warn of what is theirs to mend (deprecated calls of their own, packages that are not needed)."""
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch._export", "onnxscript", "onnx_ir")
    ]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
