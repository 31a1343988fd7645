"""Steps as a loop of a program: equal to eager, and as long for any number of them. Run by test_loops.py, in a process
of its own: annotations that are checked while tests run cannot be traced inside a loop.
"""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from flowkit.cond import Cond
from flowkit.export.backends import BACKENDS
from flowkit.export.trace import trace
from flowkit.export.write import verify
from flowkit.fields.guidance import ClassifierFree
from flowkit.nn.mlp import MLP
from flowkit.nn.network import NetworkSpec
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.objective import Networks
from flowkit.programs import Port, Program, generate, planned
from flowkit.solvers.ddim import DDIM
from flowkit.solvers.euler import Euler
from flowkit.solvers.heun import Heun
from flowkit.solvers.rk4 import RK4
from flowkit.solvers.sampler import Sampler
from flowkit.times.grids import ShiftedGrid

torch.manual_seed(0)
OBJECTIVE = FlowMatching()
NETWORKS = Networks({"main": MLP(NetworkSpec(), dimension=2, width=8, depth=1, vectors={"c": 3})})


class Points(torch.nn.Module):
    """Points from noise and a condition."""

    def __init__(self, sampler: Sampler) -> None:
        super().__init__()
        self.networks, self.sampler = NETWORKS, planned(sampler)

    def forward(self, c: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return generate(OBJECTIVE, self.networks, noise, Cond({"c": c}), self.sampler)


def program(sampler: Sampler) -> Program:
    return Program(
        Points(sampler).eval(), [Port("c", ("batch", 3)), Port("noise", ("batch", 2))], [Port("x", ("batch", 2))]
    )


def loops(traced: Any) -> int:
    return sum(node.target is torch.ops.higher_order.scan for node in traced.graph.nodes)


def main() -> None:
    """Raise where something is wrong."""
    c, noise = torch.randn(6, 3), torch.randn(6, 2)
    guided: Any = None
    for solver, guidance in (
        (Euler(), None), (Heun(), ClassifierFree(2.5, interval=(0.3, 0.7))), (RK4(), ClassifierFree(2.5)),
        (DDIM(), None),
    ):  # fmt: skip
        sampler = Sampler(solver=solver, steps=4, grid=ShiftedGrid(2.0), guidance=guidance)
        traced = trace("points", program(sampler), loops=True)
        with torch.no_grad():
            wanted = OBJECTIVE.generate(NETWORKS, noise, Cond({"c": c}), sampler=sampler, x0=noise).x
            torch.testing.assert_close(traced.module()(c, noise), wanted, atol=1e-5, rtol=0)
        assert loops(traced) == (not isinstance(solver, DDIM)), solver
        if isinstance(solver, Heun):
            guided = program(sampler), traced
            long = trace("points", program(replace(sampler, steps=40)), loops=True)
            assert len(long.graph.nodes) == len(traced.graph.nodes)
    assert loops(trace("points", program(Sampler(steps=2)), loops=True)) == 0
    assert all(parameter.requires_grad for parameter in NETWORKS.parameters())
    if importlib.util.find_spec("onnxscript") and importlib.util.find_spec("onnxruntime"):
        (made, traced), path = guided, Path(tempfile.mkdtemp()) / "points.onnx"
        BACKENDS["onnx"].write(traced, path, inputs=["c", "noise"], outputs=["x"])
        assert b"Scan" in path.read_bytes()
        assert verify("points", made, BACKENDS["onnx"].open(path, threads=1)) < 1e-5


if __name__ == "__main__":
    main()
