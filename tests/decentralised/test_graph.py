from __future__ import annotations

import pytest
import torch

from flowkit.errors import UserError
from flowkit.train.decentralised.graph import Graph


@pytest.mark.parametrize(
    ("name", "second", "largest", "degree"),
    [("ring", 0.586, 4.0, 2), ("exponential", 4.0, 7.414, 5), ("complete", 8.0, 8.0, 7)],
)  # fmt: skip
def test_eight_agents_have_the_known_spectra(name, second, largest, degree):
    graph = Graph.named(name, 8)
    assert [len(graph.neighbours(n)) for n in range(8)] == [degree] * 8
    assert graph.spectrum == pytest.approx((second, largest), abs=5e-4)


@pytest.mark.parametrize("weighting", ["laplacian", "metropolis"])
@pytest.mark.parametrize("name", ["ring", "exponential", "complete"])
@pytest.mark.parametrize("agents", [1, 2, 3, 5, 8])
def test_mixing_is_symmetric_and_keeps_the_mean(name, agents, weighting):
    laplacian = Graph.named(name, agents).laplacian(weighting)
    assert torch.equal(laplacian, laplacian.T)
    assert laplacian.sum(1).abs().max() < 1e-15
    values = torch.linalg.eigvalsh(laplacian)
    assert values.min() > -1e-12
    if weighting == "metropolis":
        assert values.max() < 2, "stable without knowing the graph"


def test_graphs_that_cannot_be_are_refused():
    for make, message in (
        (lambda: Graph.of(4, [(0, 1), (2, 3)]), "agent 2 cannot be reached"),
        (lambda: Graph.of(2, [(0, 2)]), "numbered 0 to 1"),
        (lambda: Graph.of(2, [(1, 1)]), "numbered 0 to 1"),
        (lambda: Graph.named("rings", 4), "did you mean"),
        (lambda: Graph.named("ring", 0), "at least one agent"),
    ):
        with pytest.raises(UserError, match=message):
            make()
