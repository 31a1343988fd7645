"""Against the matrix form, central SGD, and a run over gloo."""

from __future__ import annotations

import pytest
import torch
from forked import Forked
from quadratic import SCHEDULE, gradient, start, train
from torch import nn

from flowkit.errors import UserError
from flowkit.train.decentralised.communicator import Distributed, InProcess
from flowkit.train.decentralised.dsgd import DecentralisedSGD, flat
from flowkit.train.decentralised.graph import Graph
from flowkit.train.decentralised.schedule import DecayingWeights

GRAPHS = ["ring", "exponential", "complete"]


def resting(graph: Graph, mix: float) -> tuple[DecentralisedSGD, torch.Tensor]:
    """Agents without gradients, and their states as rows."""
    agents = [[nn.Parameter(torch.randn(5, generator=torch.Generator().manual_seed(n), dtype=torch.float64))]
              for n in range(graph.agents)]  # fmt: skip
    schedule = DecayingWeights(step=1.0, step_decay=0.0, mix=mix, mix_decay=0.0)
    dsgd = DecentralisedSGD(agents, communicator=InProcess(graph), schedule=schedule)
    return dsgd, torch.stack([a[0].detach() for a in agents])


@pytest.mark.parametrize("name", GRAPHS)
def test_mixing_alone_keeps_the_mean_and_contracts_by_the_spectrum(name):
    graph = Graph.named(name, 8)
    second, largest = graph.spectrum
    mix = 1.5 / largest
    dsgd, rows = resting(graph, mix)
    mean = rows.mean(0)
    expected = rows
    for _ in range(10):
        before = (expected - mean).norm()
        expected = expected - mix * graph.laplacian() @ expected
        dsgd.step()
        now = torch.stack([t[0].detach() for t in dsgd.tensors])
        torch.testing.assert_close(now, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(now.mean(0), mean, rtol=0, atol=1e-12)
        assert (now - mean).norm() <= max(abs(1 - mix * second), abs(1 - mix * largest)) * before + 1e-12
        assert dsgd.disagreement() == pytest.approx(float((now - mean).square().sum(1).mean().sqrt()), abs=1e-12)


def test_a_complete_graph_agrees_in_one_step():
    dsgd, rows = resting(Graph.named("complete", 5), 1 / 5)
    dsgd.step()
    for tensors in dsgd.tensors:
        torch.testing.assert_close(tensors[0].detach(), rows.mean(0), rtol=0, atol=1e-12)


def test_with_equal_data_a_complete_graph_is_central_sgd():
    graph = Graph.named("complete", 4)
    agents = [[nn.Parameter(torch.zeros(3, dtype=torch.float64))] for _ in range(4)]
    schedule = DecayingWeights(step=0.3, step_decay=0.6, mix=1 / 4, mix_decay=0.0)
    dsgd = DecentralisedSGD(agents, communicator=InProcess(graph), schedule=schedule)
    central = torch.zeros(3, dtype=torch.float64)
    for k in range(1, 30):
        for tensors in agents:
            gradient(2, tensors)
        dsgd.step()
        central = central - schedule.at(k, 4.0)[0] * (central - 2)
    for tensors in agents:
        torch.testing.assert_close(tensors[0].detach(), central, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", GRAPHS)
def test_all_terms_use_the_old_iterates(name):
    graph = Graph.named(name, 5)
    rows = torch.stack([flat(start(n)) for n in range(5)])
    targets = torch.arange(5, dtype=torch.float64)[:, None]
    for k in range(1, 16):
        a, b = SCHEDULE.at(k, graph.spectrum[1])
        rows = rows - b * graph.laplacian() @ rows - a * (rows - targets)
    torch.testing.assert_close(torch.stack(train(InProcess(graph), 15)), rows, rtol=0, atol=1e-12)


def test_four_processes_do_what_one_does(tmp_path):
    four = Forked("quadratic:all_graphs", str(tmp_path), said=tmp_path / "said", world=4)
    assert four.wait() == [0] * 4, four.said()
    for name in GRAPHS:
        expected = train(InProcess(Graph.named(name, 4)), 20, momentum=0.5)
        found = [torch.load(tmp_path / f"{name}-{rank}.pt") for rank in range(4)]
        for mine, (theirs, mean) in zip(expected, found, strict=True):
            torch.testing.assert_close(theirs, mine, rtol=0, atol=1e-6)
            torch.testing.assert_close(mean, torch.stack(expected).mean(0), rtol=0, atol=1e-6)


def test_agents_go_on_from_their_state():
    graph = Graph.named("ring", 3)

    def make(agents):
        return DecentralisedSGD(
            agents, lambda p: torch.optim.Adam(p, lr=1.0), communicator=InProcess(graph), schedule=SCHEDULE
        )

    def run(dsgd, agents, steps):
        for _ in range(steps):
            for n, tensors in enumerate(agents):
                gradient(n, tensors)
            dsgd.step()

    whole = [start(n) for n in range(3)]
    dsgd = make(whole)
    run(dsgd, whole, 4)
    kept = dsgd.state_dict()
    run(dsgd, whole, 4)
    again = [start(n + 10) for n in range(3)]
    other = make(again)
    other.load_state_dict(kept)
    run(other, again, 4)
    assert all(torch.equal(a, b) for a, b in zip(map(flat, whole), map(flat, again), strict=True))


def test_the_average_is_shown_and_taken_back():
    agents = [start(n) for n in range(3)]
    dsgd = DecentralisedSGD(agents, communicator=InProcess(Graph.named("ring", 3)))
    before = [flat(tensors) for tensors in agents]
    with dsgd.averaged():
        assert all(torch.allclose(flat(tensors), torch.stack(before).mean(0)) for tensors in agents)
    assert all(torch.equal(flat(tensors), old) for tensors, old in zip(agents, before, strict=True))


def test_floating_buffers_are_mixed_and_counters_are_not():
    nets = [nn.BatchNorm1d(2), nn.BatchNorm1d(2)]
    nets[0].running_mean.fill_(4.0)
    nets[0].num_batches_tracked.fill_(7)
    schedule = DecayingWeights(step=1.0, mix=0.5, mix_decay=0.0)
    dsgd = DecentralisedSGD.of_modules(nets, communicator=InProcess(Graph.named("complete", 2)), schedule=schedule)
    dsgd.step()
    assert nets[1].running_mean.tolist() == [2.0, 2.0]
    assert [int(net.num_batches_tracked) for net in nets] == [7, 0]


def test_mistakes_are_named():
    graph = Graph.named("ring", 3)
    agents = [start(n) for n in range(3)]
    for make, message in (
        (lambda: DecentralisedSGD(agents[:2], communicator=InProcess(graph)), "2 agents were given"),
        (
            lambda: DecentralisedSGD(agents, communicator=InProcess(graph), schedule=DecayingWeights(mix=1.0)),
            "diverges",
        ),
        (lambda: DecentralisedSGD([[torch.zeros(2).int()]] * 3, communicator=InProcess(graph)), "not mixed"),
        (lambda: DecayingWeights(step=0.0), "positive"),
        (lambda: Distributed(graph), "torchrun"),
    ):
        with pytest.raises(UserError, match=message):
            make()
