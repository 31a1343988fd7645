"""Gradients in one buffer, alone and over two processes."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist
from forked import Forked
from torch import nn

from flowkit.train.gradients import FlatGradients


class Model(nn.Module):
    """Statistics, one of them in double precision, and a table that no checkpoint holds."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))
        self.register_buffer("total", torch.zeros((), dtype=torch.float64))
        self.register_buffer("lowest", torch.tensor(-torch.inf))
        self.register_buffer("table", torch.ones(2), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total += x.double().sum() / 3
        return self.layers(x).square().mean()


def train_in_two(folder: str) -> None:
    """The same steps by flat gradients and by DDP, on other data and from other weights in each process."""
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo")
    ends = {}
    for way in ("flat", "ddp"):
        torch.manual_seed(rank)
        model = Model()
        if way == "flat":
            gradients = FlatGradients(model, 2)
            model.table.fill_(rank)
            step, wrapped = gradients.reduce, model
        else:
            wrapped = nn.parallel.DistributedDataParallel(model)
            step = int
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        draws = torch.Generator().manual_seed(rank + 7)
        for _ in range(4):
            wrapped(torch.randn(6, 3, generator=draws)).backward()
            step()
            optimiser.step()
            optimiser.zero_grad(set_to_none=False)
        ends[way] = {**model.state_dict(), "table": model.table}
    torch.save(ends, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_gradients_are_views_that_backward_adds_to() -> None:
    torch.manual_seed(0)
    model, plain = (nn.Sequential(nn.Linear(3, 5), nn.SiLU(), nn.Linear(5, 1)) for _ in range(2))
    plain.load_state_dict(model.state_dict())
    model[0].bias.requires_grad_(False)
    gradients = FlatGradients(model)
    assert model[0].bias.grad is None
    x = torch.randn(4, 3)
    for _ in range(2):
        model(x).square().sum().backward()
    plain(x).square().sum().backward()
    for parameter, other in zip(model.parameters(), plain.parameters(), strict=True):
        if parameter.requires_grad:
            assert parameter.grad is not None
            assert other.grad is not None
            torch.testing.assert_close(parameter.grad, 2.0 * other.grad)
            assert parameter.grad.data_ptr() % 64 == gradients.flat[0].data_ptr() % 64
    gradients.flat[0].zero_()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_two_processes_do_what_ddp_does_bit_for_bit(tmp_path: Path) -> None:
    both = Forked("test_gradients:train_in_two", str(tmp_path), said=tmp_path / "said", world=2)
    assert both.wait() == [0, 0], both.said()
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert one["flat"].keys() == one["ddp"].keys() > {"layers.1.running_mean", "total", "lowest"}
    for name, value in one["ddp"].items():
        if name != "table":
            assert torch.equal(one["flat"][name], value), name
            assert torch.equal(other["flat"][name], value), f"{name} of process 1"
    assert one["flat"]["total"] != one["flat"]["total"].float(), "nothing was rounded"
    assert other["flat"]["table"].tolist() == [1.0, 1.0], "constants do not travel at each step"
