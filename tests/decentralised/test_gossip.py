"""Gossip as the topology of whole trainings, in one process and over gloo."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_training
from forked import Runs
from safetensors.torch import load_file
from torch import nn
from toy_training import ToyData, ToyTask, records, train

from flowkit.errors import UserError
from flowkit.nn.mlp import MLP
from flowkit.objectives.consistency_fm import ConsistencyFM
from flowkit.points import MixtureData, PointsTask
from flowkit.random import Rows, mix_seed
from flowkit.tasks import Phase
from flowkit.train.checkpoint import read_seal
from flowkit.train.decentralised.communicator import InProcess
from flowkit.train.decentralised.dsgd import DecentralisedSGD
from flowkit.train.decentralised.graph import Graph
from flowkit.train.decentralised.own_data import OwnOrder
from flowkit.train.decentralised.schedule import DecayingWeights
from flowkit.train.decentralised.topology import Gossip
from flowkit.train.loader import Order, Taken
from flowkit.train.order import Nearby

GOSSIP = {"dropout": 0.3, "lengths": True, "trainer": {"batch": 2, "accumulate": 2, "bucket": 8, "steps": 12}}
RING = GOSSIP | {"gossip": {"graph": "ring", "agents": 4, "noise": 0.01, "every": 2}}
OPEN = GOSSIP | {"gossip": {"graph": "ring", "noise": 0.01, "every": 2}, "world": 4}
#: No GPU is there (see the fixture) and none was ruled out: the processes of a launch must find each other.
COMPLETE = {
    "gossip": {"graph": "complete", "agents": 3, "split": "shared"},
    "trainer": {"batch": 3, "steps": 6, "checkpoint_every": 2, "device": "auto"},
}
#: run -> its jobs one after the other, and the exit status that each must have.
JOBS: dict[str, list[tuple[dict[str, Any], Any]]] = {
    "one": [(RING, 0)],
    "killed": [(RING | {"kill_at": 7}, -9), (RING | {"resume": "last"}, 0)],
    "four": [(OPEN, [0] * 4)],
    "one of four killed": [(OPEN | {"kill_at": 9, "rank": 2}, [2, 2, -9, 2]), (OPEN | {"resume": "last"}, [0] * 4)],
    "one of a launch killed": [
        (OPEN | {"by": "toy_training:launch", "world": 1, "launched": 4, "kill_at": 9, "rank": 1}, 1),
    ],
    "moved": [(RING | {"kill_at": 7}, -9), (OPEN | {"resume": "last"}, [0] * 4)],
    "complete": [(COMPLETE, 0)],
    "complete, three": [(COMPLETE | {"world": 3}, [0] * 3)],
    "one of three failed": [
        (COMPLETE | {"world": 3, "rank": 1, "fail_at": 5}, [2, 1, 2]),
        # Process 0 keeps what they all read.
        (COMPLETE | {"world": 3, "rank": 0, "kill_at": 6, "resume": "last"}, [-9, 2, 2]),
        (COMPLETE | {"world": 3, "resume": "last"}, [0] * 3),
    ],
    "odd": [(COMPLETE | {"world": 2}, [2, 2])],
}


@pytest.fixture(scope="module")
def performed(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All runs, in processes of their own."""
    jobs = {run: [job for job, _ in jobs] for run, jobs in JOBS.items()}
    return Runs.of(tmp_path_factory, "gossip", jobs, {"CUDA_VISIBLE_DEVICES": ""})


def test_every_process_ended_as_it_should(performed: Runs) -> None:
    performed.check({run: [status for _, status in jobs] for run, jobs in JOBS.items()})
    assert "3 agents and 2 processes" in performed.said("odd")


@pytest.mark.parametrize(("alone", "several"), [("one", "four"), ("one", "moved"), ("complete", "complete, three")])
def test_one_process_plays_the_agents_of_several(performed: Runs, alone: str, several: str) -> None:
    """Weights, averages, statistics, the mean model and what is logged; dropout draws the same units."""
    mine, theirs = performed.tensors(alone), performed.tensors(several)
    assert mine.keys() == theirs.keys()
    assert len([name for name in mine if "/0003/weights/" in name]) == (0 if "complete" in alone else 6)
    for name, value in mine.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-5, atol=1e-6, msg=name)
    for a, b in zip(performed.records(alone), performed.records(several), strict=True):
        if several == "moved" and a["step"] == 6:
            continue  # its mean is over values of one process and of four, which count alike
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)
    assert all(r["train/consensus"] > 0 for r in performed.records(alone) if "train/loss" in r)


@pytest.mark.parametrize(
    ("whole", "ended"), [("one", "killed"), ("four", "one of four killed"), ("complete, three", "one of three failed")]
)  # fmt: skip
def test_ended_agents_go_on_bit_for_bit(performed: Runs, whole: str, ended: str) -> None:
    assert performed.differing(whole, ended) == []
    assert performed.records(whole) == performed.records(ended)
    assert not list(performed.checkpoint(ended).parent.glob(".*")), "what was cut short is cleaned away"


GONE = "it is gone (killed, or its machine lost): go on with --resume last"


@pytest.mark.parametrize(
    ("run", "job", "who", "why"),
    [
        ("one of four killed", 0, 2, GONE),
        ("one of a launch killed", 0, 1, GONE),
        ("one of three failed", 0, 1, "ValueError: a fault of this process"),
        ("one of three failed", 1, 0, f"it keeps the launch's store and {GONE.removeprefix('it ')}"),
    ],
)
def test_an_agent_that_ends_is_named_by_all_others(performed: Runs, run: str, job: int, who: int, why: str) -> None:
    first = JOBS[run][job][0]
    said = performed.said(run, job)
    for other in {*range(first.get("launched", first["world"]))} - {who}:
        lines = [line for line in said.splitlines() if line.startswith(f"process {other} ")]
        assert lines == [f"process {other} stops because process {who} failed: {why}"], said
    if "launch" in run:
        whole = performed.checkpoint(run)
        assert whole.resolve().name == "00000008"
        assert read_seal(whole, hashes=True) is not None


class Seen(ToyData):
    """Notes which training samples are asked for."""

    def split(self, name: str) -> toy_training.ToySamples:
        samples = super().split(name)
        if name == "train":
            batch = samples.batch
            self.seen: list[list[int]] = []
            samples.batch = lambda rows: (self.seen.append(list(rows)), batch(rows))[1]  # pyright: ignore[reportAttributeAccessIssue]
        return samples


@pytest.mark.parametrize("graph", ["ring", "complete"])
def test_the_trainer_makes_the_steps_of_the_library(tmp_path: Path, graph: str) -> None:
    data, count, steps = Seen(), 4, 5
    torch.manual_seed(0)
    task = ToyTask()
    agents = [copy.deepcopy(task) for _ in range(count)]
    topology = Gossip(graph=graph, agents=count, step=0.2, step_decay=0.7, mix_decay=0.2)  # pyright: ignore[reportArgumentType]
    options: dict[str, Any] = {"schedule": "constant", "warmup": 0, "clip": 0.0, "prefetch": 0, "evaluate_every": 0}
    train(tmp_path, task, data, topology=topology, batch=3, steps=steps, ema=0.0, log_every=1, **options)
    dsgd = DecentralisedSGD.of_modules(
        agents, communicator=InProcess(Graph.named(graph, count)),
        schedule=DecayingWeights(step=0.2, step_decay=0.7, mix_decay=0.2),
    )  # fmt: skip
    samples = ToyData().split("train")
    for agent in agents:
        agent.adapt(data)
    for step in range(steps):
        for n, agent in enumerate(agents):
            raw = samples.batch(data.seen[step * count + n])
            agent(raw, generator=Rows(mix_seed(5, step), 3 * n, 3 * count)).total.backward()
        dsgd.step()
        dsgd.zero_grad()
    consensus = [line["train/consensus"] for line in records(tmp_path)]
    assert consensus[-1] == pytest.approx(dsgd.disagreement(), rel=1e-4)
    with dsgd.averaged():
        for mine, theirs in zip(task.parameters(), agents[0].parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_the_mean_of_the_averages_is_the_average_of_the_mean(tmp_path: Path) -> None:
    torch.manual_seed(0)
    task, count, decay = ToyTask(), 3, 0.8
    weights = list(task.parameters())
    held: list[list[torch.Tensor]] = []
    average = [w.detach().clone() for w in weights]
    task.objective.after.append(lambda step: held.append([w.detach().clone() for w in weights]))
    train(tmp_path, task, topology=Gossip(agents=count, step=0.3), batch=3, ema=decay, evaluate_every=0)
    assert len(held) == count * 24
    for step in range(24):
        share = 1 - min(decay, (1 + step) / (10 + step))
        group = held[step * count : (step + 1) * count]
        means = [torch.stack(tensors).mean(0) for tensors in zip(*group, strict=True)]
        average = [a + share * (mean - a) for a, mean in zip(average, means, strict=True)]
    for mine, theirs in zip(weights, average, strict=True):
        torch.testing.assert_close(mine.detach(), theirs, rtol=1e-5, atol=1e-6)


def test_the_spread_of_the_agents_is_judged_beside_their_mean(tmp_path: Path) -> None:
    topology = Gossip(agents=3, step=0.5, step_decay=0.0, mix=1e-3, split="blocks")
    summary = train(tmp_path, topology=topology, batch=3, best="eval/agents_worst_loss")
    found = summary["metrics"]
    assert found["eval/agents_best_loss"] < found["eval/agents_worst_loss"]
    assert found["eval/agents_worst_loss"] > found["eval/loss"], "agents that hardly mix know less than their mean"
    assert summary["topology"] == {"agents": 3, "graph": "ring", "split": "blocks"}
    assert summary["best"]["eval/agents_worst_loss"] <= found["eval/agents_worst_loss"]


class Turning(toy_training.ToyObjective):
    """The last layer learns in every other step, after the first one."""

    def phases(self) -> list[Phase]:
        first, last = "networks.by_name.main.layers.0.", "networks.by_name.main.layers.3."
        return [Phase("first", (first,), lr=0.02), Phase("last", (last,), every=2)]


def test_phases_take_turns_for_each_agent(tmp_path: Path) -> None:
    """With equal agents (an overfitted batch of equal samples) several do what one does."""
    ends = []
    for count in (2, 3):
        torch.manual_seed(0)
        task = ToyTask()
        task.objective.__class__ = Turning
        data = ToyData()
        samples = data.split("train")
        samples.x[:] = samples.x[0]
        data.split = lambda name, samples=samples: samples  # pyright: ignore[reportAttributeAccessIssue]
        topology = Gossip(agents=count, step=0.1, graph="complete")
        before = [w.detach().clone() for w in task.parameters()]
        train(tmp_path / str(count), task, data, topology=topology, batch=60 // count, steps=7, ema=0.0, clip=0.0,
              evaluate_every=0, log_every=1)  # fmt: skip
        ends.append([w.detach().clone() for w in task.parameters()])
        lines = records(tmp_path / str(count))
        assert ["train/last/lr" in line for line in lines]
        assert lines[0]["train/first/lr"] == pytest.approx(2 * lines[0]["train/last/lr"]), "phases keep their ratio"
        assert all(not torch.equal(a, b) for a, b in zip(before, ends[-1], strict=True))
        assert all(w.requires_grad for w in task.parameters())
    # The noise of a row is that of its place in the global batch, so the mean gradients are nearly the same.
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=0.05, atol=5e-3)


def test_target_networks_are_each_agents_own_and_go_on_bit_for_bit(tmp_path: Path) -> None:
    def run(name: str, steps: int, **options: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        task = PointsTask(lambda spec: MLP(spec, width=8, depth=1), ConsistencyFM(target="ema"))
        topology = Gossip(agents=2, step=0.2, split="blocks", mix=0.05)
        data = MixtureData(size=64, held_out=16, ordered=True)
        train(
            tmp_path / name,
            task,
            data,
            topology=topology,
            steps=steps,
            evaluate_every=0,
            schedule="constant",
            **options,
        )
        agents = tmp_path / name / "checkpoints" / "last" / "state" / "agents"
        return {f"{f.stem}/{k}": v for f in agents.glob("*.safetensors") for k, v in load_file(f).items()}

    whole = run("whole", 6)
    run("parts", 3)
    parts = run("parts", 6, resume="last")
    assert whole.keys() == parts.keys()
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []
    target = next(name.split("/", 1)[1] for name in whole if "by_name.target" in name and name.endswith("weight"))
    assert not torch.equal(whole[f"0000/{target}"], whole[f"0001/{target}"])


@pytest.mark.parametrize("blocks", [False, True])
def test_an_agent_sees_its_own_share_once_an_epoch(blocks: bool) -> None:
    order = OwnOrder(103, 12, seed=3, agents=4, blocks=blocks)
    seen = torch.stack([order(epoch, index) for epoch in (0, 1) for index in range(order.batches)])
    own = seen.reshape(2, order.batches, 4, 3)
    shares = [set(share.tolist()) for share in order.shares]
    assert sorted(n for share in shares for n in share) == list(range(103))
    if blocks:
        assert all(sorted(share) == list(range(min(share), max(share) + 1)) for share in shares)
    for n in range(4):
        for epoch in range(2):
            rows = own[epoch, :, n].flatten().tolist()
            assert len(set(rows)) == len(rows) >= len(shares[n]) - 3
            assert set(rows) <= shares[n]
    assert not torch.equal(own[0], own[1])


def test_an_epoch_goes_on_with_another_batch() -> None:
    first = OwnOrder(64, 8, seed=3, agents=4, blocks=False)
    read = torch.cat([first(0, index) for index in range(3)]).reshape(3, 4, 2)
    other = OwnOrder(64, 16, seed=3, begun=(0, [Taken(8, 0, 3)]), agents=4, blocks=False)
    rest = torch.stack([other(0, index) for index in range(other.count(0))]).reshape(-1, 4, 4)
    for n in range(4):
        everything = [*read[:, n].flatten().tolist(), *rest[:, n].flatten().tolist()]
        assert len(set(everything)) == len(everything)
        assert len(everything) >= 16 - 3


def test_shares_of_near_data_are_read_nearby() -> None:
    groups = np.arange(120) // 10
    order = OwnOrder(120, 8, 3, None, 0, None, Nearby(groups, 2), agents=4, blocks=False)
    rows = torch.stack([order(0, index) for index in range(order.batches)]).reshape(-1, 4, 2)
    for n in range(4):
        order_of_groups = groups[rows[:, n].flatten().numpy()]
        assert len(set(order_of_groups[:6])) <= 4 < len(set(order_of_groups))


class Statistics(nn.Module):
    over_processes = True


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    summing = ToyTask()
    summing.add_module("statistics", Statistics())
    train(tmp_path / "one", steps=2)
    train(tmp_path / "three", steps=2, topology=Gossip(agents=3), batch=2)
    for make, message in (
        (lambda: train(tmp_path / "x", topology=Gossip()), "nobody to talk to"),
        (lambda: train(tmp_path / "x", topology=Gossip(agents=2), graphs=True), r"trainer\.graphs does not go"),
        (lambda: train(tmp_path / "x", topology=Gossip(agents=2), parallel="fsdp"), "whole model"),
        (lambda: train(tmp_path / "x", summing, topology=Gossip(agents=2)), "Statistics adds up"),
        (lambda: train(tmp_path / "x", topology=Gossip(agents=80)), "70 samples: too few for 80"),
        (lambda: train(tmp_path / "x", topology=Gossip(agents=2, mix=1.0)), "diverges"),
        (lambda: train(tmp_path / "three", steps=4, topology=Gossip(agents=4), resume="last"), "of 3 agents.*of 4"),
        (lambda: train(tmp_path / "three", steps=4, resume="last"), "of 3 agents.*of one model: start 3"),
        (lambda: train(tmp_path / "one", steps=4, topology=Gossip(agents=4), resume="last"), "leave trainer.topology"),
        (lambda: Gossip(edges=[(0, 1)]), "edges go with graph: edges"),
        (lambda: Gossip(graph="edges"), "edges go with graph: edges"),
        (lambda: Gossip(every=0), "at least 1"),
        (lambda: Gossip(step=0.0), "positive"),
    ):
        with pytest.raises(UserError, match=message):
            make()
    assert not (tmp_path / "x" / "checkpoints").exists()


def test_what_all_agents_have_in_common_is_not_moved() -> None:
    common = torch.tensor([0.1, -torch.inf, 3.0])
    rows = [torch.cat([torch.full((2,), float(n)), common]) for n in range(3)]
    communicator = InProcess(Graph.named("complete", 3))
    for pull in communicator.pulls(rows, exact=3):
        assert pull[2:].tolist() == [0.0, 0.0, 0.0]
    mean = communicator.mean(rows, exact=3)
    assert torch.equal(mean[2:], common)
    assert mean[:2].tolist() == [1.0, 1.0]


def test_shared_data_are_dealt_anew() -> None:
    from flowkit.train.decentralised.own_data import order_of

    assert order_of("shared", 4) is Order
    assert isinstance(order_of("dealt", 4)(40, 8, 0), OwnOrder)
