"""Training on pairs: what learns, what is frozen, what is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowkit.cond import Cond
from flowkit.couplings.coupling import Batch
from flowkit.couplings.given_pairs import GivenPairs
from flowkit.data import DataSource, RawBatch, Samples, Split
from flowkit.errors import UserError
from flowkit.nn.mlp import MLP
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.objective import Loss, Networks
from flowkit.procedures.pair_data import PairData, PairSamples, is_pairs, pair_batch
from flowkit.procedures.pairs import PairPlan, generate_pairs
from flowkit.random import RandomSource
from flowkit.solvers.sampler import Sampler
from flowkit.tasks import Phase, Task
from flowkit.train.trainer import Trainer


class Numbers(Samples):
    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def batch(self, indices: Sequence[int]) -> RawBatch:
        return {"number": torch.as_tensor(list(indices), dtype=torch.float32)[:, None] / 100}


class NumberData(DataSource):
    def prepare(self) -> None:
        pass

    def split(self, name: Split) -> Samples:
        return Numbers({"train": 64, "validation": 16, "test": 8}[name])

    def statistics(self) -> Mapping[str, Any]:
        return {"mean": 1.0}


class EncodingTask(Task):
    """Has an encoder, an extra loss and two phases, none of which belongs to training on pairs."""

    def __init__(self, objective: FlowMatching) -> None:
        super().__init__()
        self.objective = objective
        self.networks = Networks.build(objective.needs(), lambda s: MLP(s, width=8, depth=2, vectors={"code": 3}))
        self.encoder = nn.Linear(1, 3)
        self.register_buffer("seen", torch.zeros(()))
        self.judged: list[str] = []

    def prepare(self, raw: RawBatch, generator: RandomSource | None = None) -> Batch:
        return Batch(x1=raw["number"].expand(-1, 2), cond=Cond({"code": self.encoder(raw["number"])}))

    def forward(self, raw: RawBatch, **options: Any) -> Loss:
        loss = super().forward(raw, **options)
        return Loss(loss.total + self.encoder.weight.square().sum(), {**loss.terms, "extra": loss.terms["flow"] * 0})

    def phases(self) -> Sequence[Phase]:
        return (Phase("encoder", ("encoder.",)), Phase("network", ("networks.",)))

    def adapt(self, data: DataSource) -> None:
        self.seen += 1

    def evaluate(self, samples: Samples, *, sampler: Sampler, seed: int = 0, limit: int | None = None) -> dict:
        self.judged.append(type(samples).__name__)
        return {"samples": float(len(samples))}

    def sample(self, n: int, *, sampler: Sampler, seed: int = 0, request: Any = None) -> dict:
        return {}


def task(**options: Any) -> EncodingTask:
    torch.manual_seed(0)
    return EncodingTask(FlowMatching(**options))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    teacher = task().requires_grad_(False)
    samples = NumberData().split("train")
    generate_pairs(
        tmp_path / "pairs", teacher.objective, teacher.networks,
        lambda numbers: teacher.pair_inputs(samples.batch([n % 64 for n in numbers])),
        plan=PairPlan(200, shard=64, batch=32), sampler=Sampler(steps=4), provenance={"teacher": "t"},
    )  # fmt: skip
    return tmp_path / "pairs"


def fit(task: Task, data: DataSource, folder: Path, **options: Any) -> dict[str, Any]:
    trainer = Trainer(
        steps=6, batch=8, lr=1e-2, ema=0.5, evaluate_every=3, sample_every=0, checkpoint_every=3, tensorboard=False,
        progress=False, device="cpu",
    )  # fmt: skip
    return trainer.fit(task, data, sampler=Sampler(), seed=0, folder=folder, recipe_text="", **options)


def test_only_the_networks_learn_from_the_objectives_loss_alone(store, tmp_path):
    student, data = task(coupling=GivenPairs()), PairData(str(store), NumberData(), held_out=10, teacher="t")
    before = {name: value.clone() for name, value in student.state_dict().items()}
    summary = fit(student, data, tmp_path / "run", warm_start=True)
    changed = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name, _ in student.named_parameters() if name.startswith("networks.")}
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert student.seen == 0, "statistics are the teacher's"
    assert "eval/extra" not in summary["metrics"]
    assert "train/loss" in summary["metrics"], "one phase"
    assert summary["pairs"]["teacher"] == "t"
    assert summary["pairs"]["pairs"] == 200
    assert summary["conditions"]["training samples"] == 190


def test_the_loss_is_judged_on_held_out_pairs_and_the_task_on_real_data(store, tmp_path):
    student, data = task(coupling=GivenPairs()), PairData(str(store), NumberData(), held_out=10)
    summary = fit(student, data, tmp_path / "run", warm_start=True)
    assert set(student.judged) == {"Numbers"}
    assert summary["metrics"]["eval/samples"] == 16
    assert summary["metrics"]["eval/loss"] > 0
    train, held = data.split("train"), data.loss_split()
    assert (len(train), len(held)) == (190, 10)
    assert data.statistics() == {"mean": 1.0}
    a, b = train.batch(range(190))["pair_x0"], held.batch(range(10))["pair_x0"]
    assert not (a[:, None] == b[None]).all(2).any(), "held-out pairs are not trained on"


def test_a_raw_batch_of_pairs_becomes_the_batch_that_they_were_made_of(store):
    data = PairData(str(store), NumberData())
    raw = data.split("train").batch([3, 70, 5])
    batch = pair_batch(raw)
    assert is_pairs(raw)
    assert not is_pairs(NumberData().split("train").batch([0]))
    assert set(batch.cond) == {"code"}
    numbers = Numbers(64).batch([3, 70 % 64, 5])
    torch.testing.assert_close(batch.cond["code"], task().prepare(numbers).cond["code"].detach())


def test_it_goes_on_from_a_checkpoint_but_never_begins_without_a_teacher(store, tmp_path):
    data = PairData(str(store), NumberData())
    with pytest.raises(UserError, match="flowkit reflow"):
        fit(task(coupling=GivenPairs()), data, tmp_path / "fresh")
    fit(task(coupling=GivenPairs()), data, tmp_path / "run", warm_start=True)
    again = fit(task(coupling=GivenPairs()), data, tmp_path / "run", resume=3)
    assert again["steps"] == 6


def test_a_store_of_another_teacher_and_settings_that_cannot_be_are_refused(store):
    with pytest.raises(UserError, match="another teacher"):
        PairData(str(store), NumberData(), teacher="u").split("train")
    with pytest.raises(UserError, match="held_out"):
        PairData(str(store), NumberData(), held_out=-1)


def test_dropped_conditions_take_the_nulls_of_the_store(tmp_path):
    class Labels(MLP):
        pass

    network = Labels(FlowMatching().needs()["main"], width=4, depth=1, labels={"label": 3})
    made = generate_pairs(
        tmp_path / "p", FlowMatching(), Networks({"main": network}),
        lambda numbers: Batch(
            x1=torch.zeros(len(numbers), 2),
            cond=Cond({"label": torch.zeros(len(numbers), dtype=torch.long)}, nulls={"label": 3}),
        ),
        plan=PairPlan(16, batch=8), sampler=Sampler(steps=1), provenance={"teacher": "t"},
    )  # fmt: skip
    batch = pair_batch(PairSamples(made, 0, 16).batch(range(16)))
    dropped: Tensor = batch.cond.null()["label"]
    assert dropped.tolist() == [3] * 16
