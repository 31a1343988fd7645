"""The small parts of the trainer against their formulas."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from flowkit.train.ema import EMA
from flowkit.train.metrics import Metrics
from flowkit.train.optimisers import Adam, AdamW
from flowkit.train.progress import Progress, duration
from flowkit.train.schedules import factor


def test_schedules_are_what_they_say() -> None:
    warm = [factor("cosine", s, steps=100, warmup=10) for s in range(10)]
    assert warm == pytest.approx([(s + 1) / 10 for s in range(10)])
    for step in (10, 37, 55, 99, 100, 130):
        p = min((step - 10) / 90, 1.0)
        assert factor("constant", step, steps=100, warmup=10) == 1.0
        assert factor("linear", step, steps=100, warmup=10, floor=0.2) == pytest.approx(1 - 0.8 * p)
        cosine = 0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * p))
        assert factor("cosine", step, steps=100, warmup=10, floor=0.2) == pytest.approx(cosine)


def test_the_average_follows_its_formula_with_warm_up() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {name: nn.Parameter(torch.randn(3, generator=generator, dtype=torch.float64)) for name in "ab"}
    ema = EMA(weights, decay=0.5)
    expected = {name: weight.detach().clone() for name, weight in weights.items()}
    for n in range(12):
        for name, weight in weights.items():
            weight.data += torch.randn(3, generator=generator, dtype=torch.float64)
            decay = min(0.5, (1 + n) / (10 + n))
            expected[name] = decay * expected[name] + (1 - decay) * weight.detach()
        ema.update()
    assert ema.current_decay == 0.5
    for name, average in ema.averages().items():
        torch.testing.assert_close(average, expected[name])


def test_swapping_gives_the_averages_and_then_the_same_bits_back() -> None:
    layer = nn.Linear(4, 4)
    ema = EMA(dict(layer.named_parameters()), decay=0.9)
    average = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.mul_(3)
    before = layer.weight.detach().clone()
    with ema.swapped():
        assert torch.equal(layer.weight, average)
    assert torch.equal(layer.weight, before)


def test_adamw_spares_biases_and_gains() -> None:
    layer = nn.Linear(4, 4)
    groups = AdamW().build(list(layer.parameters()), 0.1).param_groups
    decays = {p.ndim: group["weight_decay"] for group in groups for p in group["params"]}
    assert decays == {2: 0.01, 1: 0.0}
    assert len(AdamW(decay_vectors=True).build(list(layer.parameters()), 0.1).param_groups) == 1
    assert Adam(betas=(0.5, 0.9)).build(list(layer.parameters()), 0.1).defaults["betas"] == (0.5, 0.9)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_in_a_log_has_no_carriage_returns_and_rewrites_on_a_terminal() -> None:
    for stream, returns in ((io.StringIO(), 0), (Terminal(), 2)):
        progress = Progress(100, stream=stream, pause=0.0)
        progress.update(10, {"loss": 0.5}, 123.0)
        progress.note("step 10 evaluation: loss 0.4")
        progress.update(20, {"loss": 0.25}, 123.0)
        progress.close()
        text = stream.getvalue()
        assert text.count("\r") == returns
        assert "step 10/100  loss 0.5  123 samples/s" in text
        assert text.endswith("\n")
        assert "left" in text
    quiet = io.StringIO()
    progress = Progress(100, stream=quiet)
    for step in range(50):
        progress.update(step, {"loss": 0.5}, 1.0)
    assert quiet.getvalue().count("\n") == 1, "a log gets a line now and then, not each time"
    assert [duration(s) for s in (5.0, 65.0, 3723.0)] == ["0:05", "1:05", "1:02:03"]


def test_metrics_drop_what_a_killed_run_wrote_after_its_checkpoint(tmp_path: Path) -> None:
    first = Metrics(tmp_path, tensorboard=False)
    for step in (1, 2, 3):
        first.record(step, {"train/loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "train/lo')
    again = Metrics(tmp_path, start=2, tensorboard=False)
    again.record(3, {"train/loss": 30.0})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": s, "train/loss": v} for s, v in ((1, 1.0), (2, 2.0), (3, 30.0))]
