"""Gradients in one buffer, alone and over two processes."""

from __future__ import annotations

import json
import subprocess
import sys

import torch
from torch import nn

from flowkit.train.gradients import FlatGradients

TWO = """
import json, os, sys, tempfile
import torch
import torch.distributed as dist
from torch import nn
from flowkit.train.gradients import FlatGradients

folder = tempfile.mkdtemp()
pids = []
for rank in range(2):
    if (pid := os.fork()):
        pids.append(pid)
        continue
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(rank)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    gradients = FlatGradients(model, 2)
    start = [p.tolist() for p in model.parameters()]
    x = torch.arange(12.0).view(4, 3) * (rank + 1)
    (model[0](x) * model[1].weight).square().mean().backward()
    model[1].running_mean.fill_(float(rank + 7))
    own = [p.grad.tolist() for p in model.parameters()]
    gradients.reduce()
    told = {"start": start, "own": own, "mean": [p.grad.tolist() for p in model.parameters()],
            "moving": model[1].running_mean.tolist()}
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(told, file)
    os._exit(0)
for pid in pids:
    assert os.waitpid(pid, 0)[1] == 0
print(json.dumps([json.load(open(f"{folder}/{rank}.json")) for rank in range(2)]))
"""


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


def test_two_processes_start_alike_and_average() -> None:
    found = subprocess.run([sys.executable, "-c", TWO], capture_output=True, text=True, check=True)
    first, second = json.loads(found.stdout)
    assert first["start"] == second["start"]
    assert first["own"] != second["own"]
    assert first["mean"] == second["mean"]
    for mine, theirs, mean in zip(first["own"], second["own"], first["mean"], strict=True):
        expected = (torch.tensor(mine) + torch.tensor(theirs)) / 2
        torch.testing.assert_close(torch.tensor(mean), expected)
    assert first["moving"] == second["moving"] == [7.0] * 5
