"""Compiles a solve on a grid as one graph: a program of its own, for the type checker of a test cannot be traced."""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.cond import Cond
from flowkit.fields.field import Evaluation, Field
from flowkit.solvers.controllers import FixedSteps
from flowkit.solvers.midpoint import Midpoint
from flowkit.solvers.solve import solve


class Net(Field):
    """A small network that reads the time."""

    def __init__(self) -> None:
        self.weight = torch.randn(2, 2, generator=torch.Generator().manual_seed(0))

    def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Evaluation:
        """The velocity."""
        return Evaluation(torch.tanh(x @ self.weight) * t[:, None])


FIELD, METHOD, CONTROLLER = Net(), Midpoint(), FixedSteps(3)


def run(x: Tensor) -> Tensor:
    """The end of the solve."""
    return solve(FIELD, x, solver=METHOD, controller=CONTROLLER).x


if __name__ == "__main__":
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
    expected = run(x)
    torch.testing.assert_close(torch.compile(run, backend="eager", fullgraph=True)(x), expected)
