"""Adapters that two processes learn, their weights divided between them, are those of one."""

from __future__ import annotations

import pytest
import torch
from forked import Forked
from safetensors.torch import load_file
from short_training import FEW

from flowkit.cli.main import main

pytest.importorskip("peft")


def test_two_processes_learn_the_adapter_of_one(base, tmp_path):
    told = ["--rank", "2", *FEW, "--trainer.lr", "0.01", "--trainer.warmup", "0", "--trainer.parallel", "fsdp"]
    batch = ("--trainer.batch", "16")
    several = Forked(
        "flowkit.cli.main:main", ["finetune", str(base), "--out", str(tmp_path / "two"), *told, *batch],
        said=tmp_path / "said", world=2,
    )  # fmt: skip
    assert main(["finetune", str(base), "--out", str(tmp_path / "one"), *told[:-2], "--trainer.batch", "32"]) == 0
    assert several.wait(120) == [0, 0], several.said()
    one, two = (load_file(tmp_path / name / "adapter" / "adapter.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6)
    assert max(float(value.abs().max()) for name, value in one.items() if name.endswith("lora_B")) > 1e-3
