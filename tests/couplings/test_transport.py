"""Couplings: limits of minibatch OT, conditions, padding, marginals, Sinkhorn's plan."""

from __future__ import annotations

import itertools

import pytest
import torch

from flowkit.cond import Cond
from flowkit.couplings import Batch, GivenPairs, Independent, MinibatchOT, Sinkhorn
from flowkit.couplings.sinkhorn import sinkhorn_log_plan
from flowkit.couplings.transport import equal_rows, squared_cost
from flowkit.errors import UserError


def points(n: int, *shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, *shape, generator=g), torch.randn(n, *shape, generator=g) * 2 + 1


def total_cost(x0: torch.Tensor, x1: torch.Tensor) -> float:
    return float((x0 - x1).square().sum())


def is_permutation(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(torch.unique(a, dim=0), torch.unique(b, dim=0)) and a.shape == b.shape


def test_independent_and_given_pairs_leave_the_batch_alone() -> None:
    x0, x1 = points(4, 2)
    batch = Batch(x1=x1, x0=x0)
    assert Independent().draw(batch, None).batch is batch
    assert GivenPairs().draw(batch, None).batch is batch
    assert Independent.independent
    assert not GivenPairs.independent
    with pytest.raises(UserError, match="GivenPairs needs an x0"):
        GivenPairs().draw(Batch(x1=x1), None)


def test_exact_ot_beats_every_permutation() -> None:
    x0, x1 = points(6, 3)
    paired = MinibatchOT().draw(Batch(x1=x1, x0=x0), None).batch
    assert paired.x1 is x1
    assert is_permutation(paired.x0, x0)
    best = min(total_cost(x0[list(p)], x1) for p in itertools.permutations(range(6)))
    assert total_cost(paired.x0, x1) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize(
    "coupling", [MinibatchOT(), MinibatchOT(replacement=True), Sinkhorn(), Sinkhorn(draws="pairs")]
)
def test_a_batch_of_one_is_the_independent_coupling(coupling: MinibatchOT | Sinkhorn) -> None:
    x0, x1 = points(1, 3)
    paired = coupling.draw(Batch(x1=x1, x0=x0), torch.Generator().manual_seed(0)).batch
    assert torch.equal(paired.x0, x0)
    assert torch.equal(paired.x1, x1)


def test_a_large_batch_tends_to_the_monotone_map_of_the_line() -> None:
    # The optimal map from N(0, 1) to N(1, 4) is T(x) = 1 + 2 x; the batch's plan is the sorted one and approaches it.
    gaps = []
    for n in (16, 1024):
        x0, x1 = points(n, 1)
        paired = MinibatchOT().draw(Batch(x1=x1, x0=x0), None).batch
        assert torch.equal(paired.x0[:, 0].argsort(), x1[:, 0].argsort())
        gaps.append(float((1 + 2 * paired.x0 - x1).square().mean().sqrt()))
    assert gaps[1] < 0.15 < gaps[0]


def test_ot_with_labels_needs_a_word() -> None:
    x0, x1 = points(8, 2)
    label = torch.tensor([0, 1] * 4)
    batch = Batch(x1=x1, x0=x0, cond=Cond({"label": label, "speaker": label}))
    with pytest.raises(UserError, match=r"label, speaker.*within='label'"):
        MinibatchOT().draw(batch, None)
    with pytest.raises(UserError, match="speaker"):
        MinibatchOT(within="label").draw(batch, None)
    with pytest.raises(UserError, match=r"no condition 'labl'.*did you mean 'label'"):
        MinibatchOT(within="labl").draw(batch, None)
    free = MinibatchOT(ignore_condition=True).draw(batch, None).batch
    assert total_cost(free.x0, x1) == pytest.approx(
        total_cost(MinibatchOT().draw(Batch(x1=x1, x0=x0), None).batch.x0, x1)
    )


def test_transport_within_a_condition_keeps_every_x0_in_its_class_and_is_optimal_there() -> None:
    x0, x1 = points(40, 2)
    label = torch.arange(40) % 3
    paired = MinibatchOT(within="label").draw(Batch(x1=x1, x0=x0, cond=Cond({"label": label})), None).batch
    assert torch.equal(paired.cond["label"], label)
    for k in range(3):
        mine = label == k
        assert is_permutation(paired.x0[mine], x0[mine])
        alone = MinibatchOT().draw(Batch(x1=x1[mine], x0=x0[mine]), None).batch
        assert torch.equal(paired.x0[mine], alone.x0)


def test_the_condition_cost_goes_from_global_to_within() -> None:
    x0, x1 = points(40, 2)
    label = torch.arange(40) % 3
    batch = Batch(x1=x1, x0=x0, cond=Cond({"label": label}))
    free = MinibatchOT(condition_cost={"label": 0.0}).draw(batch, None).batch.x0
    bound = MinibatchOT(condition_cost={"label": 1e6}).draw(batch, None).batch.x0
    assert torch.equal(free, MinibatchOT(ignore_condition=True).draw(batch, None).batch.x0)
    assert torch.equal(bound, MinibatchOT(within="label").draw(batch, None).batch.x0)
    near = Batch(x1=x1, x0=x0, cond=Cond({"place": label.float()[:, None] * 1e4}))
    assert torch.equal(MinibatchOT(condition_cost={"place": 1.0}).draw(near, None).batch.x0, bound)


def test_the_cost_reads_unpadded_elements_only() -> None:
    x0, x1 = points(7, 2, 5)
    padding = (torch.arange(5) < torch.randint(1, 6, (7, 1), generator=torch.Generator().manual_seed(1)))[:, None]
    dirty = x1.masked_fill(~padding, float("nan"))
    cost = squared_cost(x0, dirty, padding)
    for i, j in itertools.product(range(7), range(7)):
        assert float(cost[i, j]) == pytest.approx(float(((x0[i] - x1[j]).square() * padding[j]).sum()), rel=1e-5)
    paired = MinibatchOT().draw(Batch(x1=dirty, x0=x0, cond=Cond(padding=padding)), None).batch
    assert is_permutation(paired.x0, x0)
    assert paired.x1 is dirty


def test_with_replacement_whole_triples_move() -> None:
    n = 400
    x0, x1 = points(n, 1)
    cond = Cond({"row": torch.arange(n)}, padding=torch.ones(n, 1, dtype=torch.bool))
    keep = torch.arange(n)[:, None] % 2 == 0
    drawn = (
        MinibatchOT(replacement=True, ignore_condition=True)
        .draw(Batch(x1=x1, x0=x0, cond=cond, keep=keep), torch.Generator().manual_seed(0))
        .batch
    )
    assert torch.equal(drawn.x1, x1[drawn.cond["row"]])
    assert torch.equal(drawn.keep, keep[drawn.cond["row"]])
    once = MinibatchOT().draw(Batch(x1=x1, x0=x0), None).batch
    assert torch.equal(drawn.x0, once.x0[drawn.cond["row"]])
    kept = len(torch.unique(drawn.cond["row"])) / n
    assert kept == pytest.approx(1 - 1 / 2.718281828, abs=0.06)  # the 37 % that sampling with replacement leaves out


def test_the_marginals_of_x0_and_x1_are_kept() -> None:
    # Over many batches the law of x0 must stay the source's: here its mean and second moment, with labels.
    g = torch.Generator().manual_seed(0)
    for coupling in (
        MinibatchOT(within="label"),
        Sinkhorn(within="label", epsilon=0.1),
        Sinkhorn(within="label", draws="pairs"),
    ):
        kept: list[torch.Tensor] = []
        for _ in range(10):
            x0, label = torch.randn(128, 2, generator=g), torch.randint(2, (128,), generator=g)
            x1 = torch.randn(128, 2, generator=g) + 4 * label[:, None]
            batch = coupling.draw(Batch(x1=x1, x0=x0, cond=Cond({"label": label})), g).batch
            kept.append(batch.x0[batch.cond["label"] == 1])
        x0 = torch.cat(kept)
        # Within a class q(x0 | label) = p(x0); a global plan would put the mean of x0 near +0.5 here.
        assert float(x0.mean().abs()) < 0.12
        assert float(x0.square().mean()) == pytest.approx(1.0, abs=0.12)


@pytest.mark.parametrize("epsilon", [10.0, 0.3, 0.01])
def test_sinkhorn_plan_has_uniform_marginals(epsilon: float) -> None:
    x0, x1 = points(50, 3)
    plan = sinkhorn_log_plan(squared_cost(x0, x1) * 1e4, epsilon, iterations=5000).exp()
    assert torch.isfinite(plan).all()
    torch.testing.assert_close(plan.sum(0), torch.full((50,), 1 / 50, dtype=torch.float64), rtol=1e-9, atol=0)
    torch.testing.assert_close(plan.sum(1), torch.full((50,), 1 / 50, dtype=torch.float64), rtol=1e-5, atol=0)


def test_sinkhorn_goes_from_the_exact_plan_to_independence() -> None:
    x0, x1 = points(8, 2)
    cost = squared_cost(x0, x1)
    exact = MinibatchOT().draw(Batch(x1=x1, x0=x0), None).batch.x0
    for draws in ("columns", "permutation"):
        sharp = Sinkhorn(epsilon=2e-3, draws=draws, iterations=2000)
        assert torch.equal(sharp.draw(Batch(x1=x1, x0=x0), torch.Generator().manual_seed(0)).batch.x0, exact)
    flat = sinkhorn_log_plan(cost, 1e6).exp()
    torch.testing.assert_close(flat, torch.full_like(flat, 1 / 64), rtol=1e-4, atol=0)


def test_a_plan_that_is_good_enough_for_draws_is_near_the_exact_one() -> None:
    cost = squared_cost(*points(128, 2))
    exact = sinkhorn_log_plan(cost.double(), 0.05, tolerance=1e-9, iterations=20_000).exp()
    rough = sinkhorn_log_plan(cost, 0.05, tolerance=Sinkhorn().tolerance).exp()
    assert float((rough - exact).abs().sum()) / 2.0 < 0.01
    assert float((rough.sum(0) * 128 - 1.0).abs().max()) < 1e-4


def test_sinkhorn_draws_follow_the_plan() -> None:
    x0, x1 = points(5, 1)
    plan = sinkhorn_log_plan(squared_cost(x0, x1), 0.3).exp()
    g = torch.Generator().manual_seed(0)
    for draws, tolerance in (("columns", 0.04), ("pairs", 0.04)):
        counts, coupling = torch.zeros(5, 5), Sinkhorn(epsilon=0.3, draws=draws, ignore_condition=True)
        row = torch.arange(5)
        for _ in range(150):
            batch = coupling.draw(Batch(x1=x1, x0=x0, cond=Cond({"row": row})), g).batch
            i = (batch.x0 == x0.T).float().argmax(1)
            counts.index_put_((i, batch.cond["row"]), torch.ones(5), accumulate=True)
        assert float((counts / counts.sum() - plan).abs().max()) < tolerance
    once = Sinkhorn(epsilon=0.3, draws="permutation").draw(Batch(x1=x1, x0=x0), g).batch
    assert is_permutation(once.x0, x0)


def test_equal_rows_partition_the_batch() -> None:
    a, b = torch.tensor([1, 1, 2, 2, 1]), torch.tensor([0.5, 0.5, 0.5, 0.7, 0.1])
    groups = [g.tolist() for g in equal_rows([a, b])]
    assert sorted(map(tuple, groups)) == [(0, 1), (2,), (3,), (4,)]
