"""Whole trainings of a tiny task in this process."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from toy_training import ToyData, ToySamples, ToyTask, records, settings, train

from flowkit.errors import UserError
from flowkit.random import Rows, mix_seed
from flowkit.tasks import Phase
from flowkit.train.nonfinite import NonFiniteLoss
from flowkit.train.trainer import Trainer


class Seen(ToyData):
    """Notes which training samples are asked for."""

    def split(self, name: str) -> ToySamples:
        samples = super().split(name)
        if name == "train":
            batch = samples.batch
            self.seen: list[list[int]] = []
            samples.batch = lambda rows: (self.seen.append(list(rows)), batch(rows))[1]  # pyright: ignore[reportAttributeAccessIssue]
        return samples


def test_a_run_learns_and_leaves_everything_in_its_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = ToyTask()
    summary = train(tmp_path, task, steps=60, lr=0.02, sample_every=30, tensorboard=True, keep=2)
    lines = records(tmp_path)
    assert {"train/loss", "train/flow", "train/grad_norm", "train/lr", "step"} <= lines[0].keys()
    evaluations = [line for line in lines if "eval/loss" in line]
    assert [line["step"] for line in evaluations] == [8, 16, 24, 32, 40, 48, 56, 60]
    assert evaluations[-1]["eval/loss"] < 0.9 * evaluations[0]["eval/loss"]
    assert all({"eval/flow", "eval/weights"} <= line.keys() for line in evaluations)
    assert task.training_seen == [False] * 8
    assert {p.name for p in (tmp_path / "samples").iterdir()} == {"step00000030-note.txt", "step00000060-note.txt"}
    assert list((tmp_path / "tensorboard").iterdir())
    assert (tmp_path / "recipe.yaml").read_text() == "seed: 5\n"
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert summary["status"] == "finished"
    assert summary["steps"] == 60
    assert summary["samples_seen"] == 480
    assert summary["sampling"] == {"solver": "Euler", "steps": 10, "evaluations": 10}
    assert summary["versions"]["torch"] == torch.__version__
    best = min(evaluations, key=lambda line: line["eval/loss"])
    assert summary["best"] == {"step": best["step"], "eval/loss": best["eval/loss"]}
    checkpoints = tmp_path / "checkpoints"
    assert (checkpoints / "best").resolve().name == f"{best['step']:08d}"
    assert (checkpoints / "last").resolve().name == "00000060"
    # The averaged weights are saved, evaluated, and left in the task.
    saved = load_file(checkpoints / "last" / "model" / "model.safetensors")
    assert saved.keys() == task.state_dict().keys()
    assert all(torch.equal(saved[name], value) for name, value in task.state_dict().items())
    assert task.weight_sum() == pytest.approx(evaluations[-1]["eval/weights"])
    raw = load_file(checkpoints / "last" / "state" / "weights.safetensors")
    assert not torch.equal(raw["networks.by_name.main.layers.0.weight"], saved["networks.by_name.main.layers.0.weight"])
    assert saved["objective.counted"] == 60
    assert saved["mean"] == 3.0


def test_the_first_step_is_the_plain_formula(tmp_path: Path) -> None:
    """One step of ours against the same step written out: batch, draws, clipping, Adam."""
    torch.manual_seed(0)
    mine, plain = ToyTask(), ToyTask()
    plain.load_state_dict(mine.state_dict())
    data = Seen()
    train(tmp_path, mine, data, steps=1, ema=0.0, schedule="constant", warmup=0, clip=0.5, prefetch=0, evaluate_every=0)
    plain.adapt(ToyData())
    loss = plain(ToyData().split("train").batch(data.seen[0]), generator=Rows(mix_seed(5, 0), 0, 8))
    total = loss.total.detach()
    loss.total.backward()
    norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
    torch.optim.Adam(plain.parameters(), lr=0.01).step()
    (line,) = records(tmp_path)
    assert line["train/loss"] == pytest.approx(float(total), rel=1e-6)
    assert line["train/grad_norm"] == pytest.approx(float(norm), rel=1e-6)
    for a, b in zip(mine.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_validation_loss_is_the_mean_over_samples_whatever_the_batch(tmp_path: Path) -> None:
    found = []
    for number, batch in enumerate((1, 8, 21)):
        torch.manual_seed(0)
        train(tmp_path / str(number), ToyTask(), steps=1, lr=0.0, batch=batch, evaluate_every=1, best="eval/flow")
        found.append(records(tmp_path / str(number))[-1]["eval/loss"])
    torch.manual_seed(0)
    task = ToyTask()
    task.adapt(ToyData())
    rows = Rows(mix_seed(5, 0xE7A1), first=0, total=21)
    expected = float(task(ToyData().split("validation").batch(range(21)), generator=rows).total.detach())
    assert found == pytest.approx([expected] * 3, rel=1e-5)


def test_evaluations_do_not_change_the_training(tmp_path: Path) -> None:
    finals = []
    for every in (0, 3):
        torch.manual_seed(0)
        task = ToyTask(dropout=0.4)
        train(tmp_path / str(every), task, evaluate_every=every, sample_every=every)
        finals.append(task.weight_sum())
    assert finals[0] == finals[1]


def test_accumulation_equals_the_larger_batch(tmp_path: Path) -> None:
    sums = []
    for batch, accumulate in ((8, 1), (2, 4)):
        torch.manual_seed(0)
        task = ToyTask()
        train(tmp_path / str(batch), task, batch=batch, accumulate=accumulate, evaluate_every=0)
        sums.append(task.weight_sum())
    assert sums[0] == pytest.approx(sums[1], abs=1e-6)


def test_a_loss_that_is_not_finite_stops_with_exactly_its_batch(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss) as raised:
        train(tmp_path, None, ToyData(poisoned=33), log_every=7, batch=8, clip=0.0)
    (file,) = tmp_path.glob("nonfinite-*.safetensors")
    step = int(file.stem.split("step")[1].split("-")[0])
    assert f"step {step}: train/loss = nan" in str(raised.value)
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)
    with safe_open(file, "pt") as content:
        indices = json.loads(content.metadata()["indices"])
        names = json.loads(content.metadata()["name"])
        x = content.get_tensor("x")
    assert 33 in indices
    assert names == [f"sample {i}" for i in indices]
    assert torch.isnan(x).any(1).tolist() == [i == 33 for i in indices]
    for line in records(tmp_path) if (tmp_path / "metrics.jsonl").exists() else []:
        assert all(math.isfinite(value) for value in line.values())
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert "nan" in summary["status"]
    saved = [int(p.name) for p in (tmp_path / "checkpoints").glob("0*")] if (tmp_path / "checkpoints").exists() else []
    assert all(s < step for s in saved)


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = ToyTask()
    summary = train(tmp_path / "run", task, dry_run=True, sample_every=100, evaluate_every=100)
    assert not (tmp_path / "run").exists()
    assert summary["steps"] == 2
    assert summary["metrics"]["eval/limit"] == 8
    assert task.training_seen == [False]


def test_one_batch_is_overfitted(tmp_path: Path) -> None:
    data = Seen(n=500)
    train(tmp_path, None, data, steps=30, overfit_batch=True, batch=4, evaluate_every=0)
    assert len(data.seen) >= 30
    assert len({tuple(rows) for rows in data.seen}) == 1


def test_phases_learn_their_parameters_in_their_turn(tmp_path: Path) -> None:
    first, second = "networks.by_name.main.layers.0", "networks.by_name.main.layers.3"

    class Staged(ToyTask):
        def phases(self) -> tuple[Phase, ...]:
            base = Phase("base", (first,), last_step=2)
            head = Phase("head", (second,), first_step=3, every=2, lr=0.5)
            return base, head, Phase("rest", (f"{second}.bias",))

    torch.manual_seed(0)
    task = Staged()
    history: list[dict[str, torch.Tensor]] = []
    task.objective.after.append(
        lambda step: history.append({k: v.detach().clone() for k, v in task.named_parameters()})
    )
    train(tmp_path, task, steps=7, ema=0.0, evaluate_every=0, schedule="constant", warmup=0, checkpoint_every=0)

    def moved(step: int) -> set[str]:
        return {k.split("layers.")[1] for k in history[step] if not torch.equal(history[step][k], history[step - 1][k])}

    assert [moved(s) for s in range(1, 7)] == [
        {"0.weight", "0.bias", "3.bias"}, {"0.weight", "0.bias", "3.bias"}, {"3.bias"}, {"3.weight", "3.bias"},
        {"3.bias"}, {"3.weight", "3.bias"},
    ]  # fmt: skip
    tags = set().union(*(line.keys() for line in records(tmp_path)))
    assert {"train/base/loss", "train/head/loss", "train/rest/flow", "train/head/lr"} <= tags
    assert all(p.requires_grad for p in task.parameters())


@pytest.mark.parametrize("precision", ["bf16"])
def test_reduced_precision_trains_and_keeps_losses_in_float32(tmp_path: Path, precision: Any) -> None:
    torch.manual_seed(0)
    task = ToyTask()
    seen: list[torch.dtype] = []
    task.networks.main.layers[0].register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    train(tmp_path, task, precision=precision, steps=6)
    assert set(seen) == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in task.parameters())
    torch.manual_seed(0)
    train(tmp_path / "plain", ToyTask(), steps=6)  # another precision in the same process
    a, b = (records(folder)[0]["train/loss"] for folder in (tmp_path, tmp_path / "plain"))
    assert a == pytest.approx(b, rel=0.05)
    assert a != b


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "trainer.batch is 0: it must be at least 1"),
        ({"lr": -1.0}, "trainer.lr is -1.0"),
        ({"lr": math.nan}, "trainer.lr is nan"),
        ({"ema": 1.0}, "trainer.ema is 1.0"),
    ],
)
def test_impossible_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Trainer(**changes)


def test_mistakes_around_a_run_are_clear(tmp_path: Path) -> None:
    train(tmp_path / "run", steps=2)
    for options, message in (
        ({}, "holds a run already: go on with --resume last"),
        ({"resume": "7"}, "no whole checkpoint of step 7"),
        ({"precision": "fp16", "resume": "last"}, "fp16 needs a GPU"),
        ({"resume": "last", "steps": 9, "best": "eval/los"}, "did you mean 'eval/loss'"),
    ):
        with pytest.raises(UserError, match=message) as raised:
            train(tmp_path / "run", **options)
        assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="is not the folder of a run"):
        train(tmp_path / "nowhere", resume="last")


def test_a_run_without_a_checkpoint_starts_anew_and_a_longer_one_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text("")
    assert train(tmp_path, steps=4, resume="last", schedule="constant")["steps"] == 4
    assert train(tmp_path, steps=6, resume="last", schedule="constant", progress=True)["steps"] == 6
    said = capsys.readouterr().err
    assert "going on from step 4" in said
    assert "changed: steps was 4, is 6 (" in said
    train(tmp_path / "whole", steps=6, schedule="constant")
    model = Path("checkpoints", "last", "model", "model.safetensors")
    one, other = (load_file(folder / model) for folder in (tmp_path, tmp_path / "whole"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_does_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = "trainer.checkpoint_activations does nothing here: the networks have no repeated blocks"
    for deep in (0, 2):
        train(tmp_path / str(deep), ToyTask(deep=deep), steps=1, checkpoint_activations=True, progress=True)
        assert (nothing in capsys.readouterr().err) == (deep == 0)


def test_the_settings_are_a_recipe(tmp_path: Path) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--trainer", type=Trainer)
    path = "flowkit.train.optimisers.AdamW"
    optimiser = {"class_path": path, "init_args": {"betas": [0.8, 0.9]}}
    topology = {"class_path": "flowkit.train.decentralised.topology.OneModel"}
    config = parser.parse_object(
        {"trainer": {"steps": 7, "precision": "bf16", "optimiser": optimiser, "topology": topology}}
    )
    trainer = parser.instantiate(config).trainer
    assert trainer.steps == 7
    assert trainer.precision == "bf16"
    assert trainer.optimiser.betas == (0.8, 0.9)
    assert parser.parse_string(parser.dump(config)) == config
    assert settings().optimiser is not None


def test_training_ends_when_its_time_is_over_and_is_looked_at(tmp_path: Path) -> None:
    summary = train(tmp_path, ToyTask(), steps=10**6, seconds=0.5, evaluate_every=10**6)
    assert 0 < summary["steps"] < 10**6
    assert "are over" in summary["status"]
    assert "eval/loss" in summary["metrics"]
    assert (tmp_path / "checkpoints" / "last" / "model" / "model.safetensors").is_file()


def test_graphs_without_a_gpu_train_as_always(tmp_path: Path) -> None:
    for graphs in (False, True):
        train(tmp_path / str(graphs), device="cpu", graphs=graphs)
    assert records(tmp_path / "True") == records(tmp_path / "False")
