"""Noise of inverted pairs, made normal: marginals, ranks, and the record of a store."""

from __future__ import annotations

import pytest
import torch

from flowkit.couplings.coupling import Batch
from flowkit.errors import UserError
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.objective import Networks
from flowkit.procedures.pairs import PairPlan, generate_pairs
from flowkit.procedures.projection import excess_kurtosis, project_noise
from flowkit.solvers.sampler import Sampler
from flowkit.testing import ExactNetwork, GaussianMixture


def test_elements_become_normal_and_white_and_keep_their_order():
    z = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mixed = (z.sign() * z.abs().sqrt()) @ torch.tensor(
        [[1.0, 0.6, 0.0], [0.0, 1.2, 0.3], [0.0, 0.0, 0.7]]
    ).double() + 0.5
    assert abs(excess_kurtosis(mixed)) > 0.3
    out = project_noise(mixed)
    assert float(out.mean(0).abs().max()) < 1e-6
    assert abs(excess_kurtosis(out)) < 0.02
    assert torch.allclose(torch.cov(out.T), torch.eye(3).double(), atol=0.06)
    one = mixed[:, :1]
    assert torch.equal(project_noise(one).argsort(0), one.argsort(0))


def test_normal_noise_hardly_moves():
    z = torch.randn(4000, 2, 2, generator=torch.Generator().manual_seed(1))
    assert float((project_noise(z) - z).square().mean().sqrt()) < 0.08


def test_a_store_of_inverted_pairs_is_projected_and_says_how_normal_they_were(tmp_path):
    # The teacher has learnt a narrower law than the data's, so inverted noise is too wide.
    teacher = Networks({"main": ExactNetwork(GaussianMixture([1.0], [[0.0, 0.0]], 0.5))})
    data = torch.randn(64, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def inputs(numbers):
        return Batch(x1=data[list(numbers)])

    stores = [
        generate_pairs(
            tmp_path / str(project), FlowMatching(), teacher, inputs, sampler=Sampler(steps=8),
            plan=PairPlan(pairs=64, shard=64, batch=16, inverted=1.0, project=project), provenance={"teacher": "a"},
        )
        for project in (False, True)
    ]  # fmt: skip
    plain, projected = (store.batch(range(64)) for store in stores)
    assert torch.equal(plain["x1"], data)
    assert torch.equal(projected["x1"], data)
    assert float(plain["x0"].square().mean()) > 1.5
    assert float(projected["x0"].square().mean()) == pytest.approx(1.0, abs=0.06)
    assert all("inverted_kurtosis" in store.manifest["shards"][0] for store in stores)
    assert "project" not in stores[0].manifest["plan"]


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UserError, match="none are inverted"):
        PairPlan(project=True)
    with pytest.raises(UserError, match="at least 16"):
        project_noise(torch.zeros(4, 2))
