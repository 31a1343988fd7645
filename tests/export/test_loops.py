"""Programs whose steps are a loop."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from flowkit.errors import UserError
from flowkit.export import open_export, write_export
from flowkit.programs import Exportable, Port, Program
from flowkit.solvers.sampler import Sampler


def test_loops_equal_eager_and_are_no_longer_for_more_steps() -> None:
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": str(root)}
    script = str(Path(__file__).with_name("traced_loops.py"))
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_steps_are_written_out_where_a_loop_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowkit.export import write

    tried, traced = [], write.trace

    def failing(name: str, program: Program, seed: int = 0, *, loops: bool) -> Any:
        tried.append(loops)
        if loops:
            raise UserError("no loop here")
        return traced(name, program, seed, loops=loops)

    monkeypatch.setattr(write, "trace", failing)
    program = Program(torch.nn.Softplus().eval(), [Port("x", ("batch", 3))], [Port("y", ("batch", 3))])
    task: Any = type("Task", (), {"eval": lambda self: self, "exports": lambda self, s: Exportable({"p": program})})()
    folder = write_export(tmp_path / "out", task, Sampler(steps=4), formats=("torch",))
    assert tried == [True, False]
    x = torch.randn(4, 3)
    found = torch.from_numpy(open_export(folder)("p", x=x.numpy())["y"])
    torch.testing.assert_close(found, torch.nn.functional.softplus(x))


def test_a_program_that_fails_either_way_is_refused(tmp_path: Path) -> None:
    class Broken(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if bool(x.sum() > 0) else x

    program = Program(Broken().eval(), [Port("x", ("batch", 3))], [Port("y", ("batch", 3))])
    task: Any = type("Task", (), {"eval": lambda self: self, "exports": lambda self, s: Exportable({"p": program})})()
    with pytest.raises(UserError, match="cannot be traced"):
        write_export(tmp_path / "out", task, Sampler(steps=4), formats=("torch",))
