"""The same on a GPU, where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toy_training import ToyData, ToySamples, ToyTask, records, settings, train

from flowkit.data import RawBatch, padded_length
from flowkit.solvers.sampler import Sampler
from flowkit.train import loop
from flowkit.train.run import Run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU = {"device": "auto", "bucket": 8}


@pytest.mark.parametrize(
    ("precision", "graphs"), [("fp32", False), ("bf16", False), ("fp16", False), ("fp32", True), ("bf16", True)]
)
def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path: Path, precision: str, graphs: bool) -> None:
    for name, stops in (("calm", (24,)), ("resumed", (5, 13, 24))):
        for stop in stops:
            torch.manual_seed(0)
            task = ToyTask(dropout=0.3)

            def interrupt(step: int, stop: int = stop) -> None:
                if step + 1 == stop < 24:
                    raise KeyboardInterrupt

            task.objective.after.append(interrupt)
            options = {**GPU, "precision": precision, "graphs": graphs, "resume": "last" if stop != stops[0] else None}
            if stop < 24:
                with pytest.raises(KeyboardInterrupt):
                    train(tmp_path / name, task, ToyData(lengths=True), **options)
            else:
                train(tmp_path / name, task, ToyData(lengths=True), **options)
    for file in ("model/model", "state/weights", "state/optimiser", "state/random"):
        path = Path("checkpoints", "last", f"{file}.safetensors")
        one, other = (load_file(tmp_path / name / path) for name in ("calm", "resumed"))
        assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert records(tmp_path / "calm") == records(tmp_path / "resumed")


@pytest.mark.parametrize("chosen", [False, True])
def test_cudnn_looks_for_fast_convolutions_where_it_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: bool
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    train(tmp_path, ToyTask(), ToyData(), **GPU, steps=2, cudnn_benchmark=chosen)
    assert torch.backends.cudnn.benchmark == chosen


def test_the_loop_never_waits_for_the_gpu(tmp_path: Path) -> None:
    trainer = settings(**GPU, precision="bf16", steps=9, log_every=10, evaluate_every=0, checkpoint_every=0)
    run = Run(
        trainer, ToyTask(), ToyData(), sampler=Sampler(), seed=0, folder=tmp_path, recipe_text="", resume=None,
        overfit_batch=False, dry_run=False,
    )  # fmt: skip
    shares = iter(run.loader)
    assert run.ema is not None
    try:
        for step in range(9):
            torch.cuda.set_sync_debug_mode("error" if step > 2 else "default")
            run.turns.step(step, next(shares), run.window)
            run.ema.update()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        shares.close()
    assert run.window.fetch(run.accelerator) == {}


class PaddedSamples(ToySamples):
    """Every batch is padded to its longest sample, as sounds are."""

    def batch(self, indices: Sequence[int]) -> RawBatch:
        raw = super().batch(indices)
        longest = int(self.lengths()[list(indices)].max())  # pyright: ignore[reportOptionalSubscript]
        return {**raw, "frames": torch.zeros(len(raw["x"]), padded_length(longest, self.pad_multiple))}


class PaddedData(ToyData):
    def split(self, name: str) -> ToySamples:
        return PaddedSamples(self.n if name == "train" else self.held_out, 1, lengths=True)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_captured_steps_learn_what_launched_ones_learn(tmp_path: Path, precision: str) -> None:
    """No dropout: a captured program draws it from another place of the stream."""
    losses: dict[str, list[float]] = {}
    shapes = {padded_length(n, 8) for n in range(1, 65)}
    for name, graphs, limit in (("launched", False, 0), ("captured", True, 96), ("some captured", True, 2)):
        torch.manual_seed(0)
        options: dict[str, Any] = {"precision": precision, "steps": 60, "log_every": 1, "graphs": graphs}
        run = Run(
            settings(**GPU, **options, evaluate_every=0, checkpoint_every=0), ToyTask(), PaddedData(n=320),
            sampler=Sampler(), seed=0, folder=tmp_path / name, recipe_text="", resume=None,
            overfit_batch=False, dry_run=False,
        )  # fmt: skip
        assert (run.turns.graphs is not None) == graphs
        if run.turns.graphs is not None:
            run.turns.graphs.limit = limit
        loop.train(run)
        losses[name] = [r["train/loss"] for r in records(tmp_path / name)]
        if run.turns.graphs is not None:
            captured = len(run.turns.graphs._captured)
            assert 2 <= captured <= min(limit, len(shapes)), "one program a shape, no more than allowed"
    tolerance = {"fp32": 1e-4, "bf16": 2e-2}[precision]
    assert len(losses["launched"]) == 60
    assert losses["captured"] == pytest.approx(losses["launched"], rel=tolerance)
    assert losses["some captured"] == pytest.approx(losses["launched"], rel=tolerance)
