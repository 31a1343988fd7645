"""Tracing: from the module of a program to a ``torch.export.ExportedProgram``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from flowkit.config import plugins
from flowkit.errors import UserError
from flowkit.export.backends import quiet
from flowkit.programs import Program
from flowkit.solvers.scanned_loop import scanning

_LARGEST = 1 << 20


def trace(name: str, program: Program, seed: int = 0, *, loops: bool = False) -> Any:
    """The ``torch.export.ExportedProgram`` of a program, its axes free.

    ``loops`` makes one operation of a solve's steps where they are alike (:mod:`flowkit.solvers.scanned_loop`).

    Raises:
        UserError: it cannot be traced.
    """
    free = {
        key: axis.multiple * torch.export.Dim(f"{key}_of_{axis.multiple}", min=-(-axis.least // axis.multiple))
        if axis.multiple > 1
        else torch.export.Dim(key, min=axis.least, max=_LARGEST)
        for key, axis in program.axes.items()
    }
    shapes = tuple(
        {i: free[size] for i, size in enumerate(port.shape) if isinstance(size, str)} for port in program.inputs
    )

    try:
        with torch.no_grad(), quiet(), _unchecked(), _constant(program.module), scanning() if loops else nullcontext():
            traced = torch.export.export(
                _Positional(program.module), draw(program, 0, seed), dynamic_shapes=(shapes,), strict=False
            )
    except UserError:
        raise
    except Exception as error:  # tracing runs the networks' own code, which may fail in any way
        raise UserError(
            f"the program {name} cannot be traced by torch.export: {plugins.one_line(error)[:300]}"
        ) from error
    for part in traced.graph_module.modules():
        for node in getattr(part, "graph", torch.fx.Graph()).nodes:
            node.meta.pop("stack_trace", None)  # where FlowKit lies here is nobody's business
    used = {*traced.graph_signature.parameters, *traced.graph_signature.buffers}
    for key in [key for key in traced.state_dict if key not in used]:
        del traced.state_dict[key]
    return traced


@contextmanager
def _constant(module: torch.nn.Module) -> Iterator[None]:
    """Without gradients: a loop would be traced for them too."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def _unchecked() -> Iterator[None]:
    """Shape checks, where somebody turned them on, bind each size to the one that is traced."""
    import jaxtyping

    was = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", was)


class _Positional(torch.nn.Module):
    """Takes the inputs as one tuple of arguments, whatever the module calls them."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.module(*inputs)


def draw(program: Program, number: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Random inputs; ``number`` 0 has the sizes of the trace."""
    generator = torch.Generator().manual_seed(seed + number)
    sizes = {key: axis.sizes[number % len(axis.sizes)] for key, axis in program.axes.items()}
    return tuple(port.draw(sizes, generator) for port in program.inputs)
