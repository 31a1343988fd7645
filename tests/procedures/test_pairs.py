"""Making pairs and keeping them: exact pairs, kill anywhere and go on, what is refused."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import making
import numpy as np
import pytest
import torch
from making import PLAN, length, make, mu

from flowkit.cond import Cond
from flowkit.couplings.coupling import Batch
from flowkit.errors import UserError
from flowkit.metrics.point_sets import energy_distance
from flowkit.metrics.straightness import degree_of_intersection, straightness
from flowkit.metrics.transport import transport_cost
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.objective import Networks
from flowkit.paths.linear import LinearPath
from flowkit.procedures.pair_store import PairStore, weights_digest
from flowkit.procedures.pairs import PairPlan, generate_pairs
from flowkit.solvers.controllers import FixedSteps
from flowkit.solvers.euler import Euler
from flowkit.solvers.rk4 import RK4
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.save import Save
from flowkit.solvers.solve import solve
from flowkit.testing import GaussianMixture
from flowkit.testing.network import ExactNetwork


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs") / "whole"
    make(folder)
    return folder


# Exact pairs


def test_every_pair_is_the_solution_from_its_noise_under_its_condition(whole):
    store = PairStore(whole, teacher="abc")
    assert len(store) == PLAN.pairs
    order = torch.randperm(PLAN.pairs, generator=torch.Generator().manual_seed(1)).tolist()
    seen = []
    for rows in (order[:17], order[17:18], order[18:]):
        batch = store.batch(rows)
        for row in range(len(rows)):
            number = int(batch["cond/label"][row])
            n = length(number)
            seen.append(number)
            assert torch.equal(batch["padding"][row, 0], torch.arange(batch["padding"].shape[2]) < n)
            assert torch.equal(batch["cond/mu"][row, :, :n], mu(number))
            difference = (batch["x1"] - batch["x0"])[row]
            torch.testing.assert_close(difference[:, :n], mu(number), atol=1e-6, rtol=1e-6)
            assert not difference[:, n:].any()
            assert batch["weight"][row] == number + 0.5
    assert sorted(seen) == list(range(PLAN.pairs))
    assert np.array_equal(np.sort(store.lengths()), np.sort(making.lengths(range(PLAN.pairs))))
    assert store.nulls == {"label": 50}


def test_the_record_says_what_it_cost_and_where_it_comes_from(whole):
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["nfe"] == 2.0
    assert manifest["pairs"] == PLAN.pairs
    assert manifest["provenance"] == {"teacher": "abc"}
    assert manifest["plan"]["seed"] == PLAN.seed


def test_noise_is_that_of_the_pair_whatever_is_solved_together(whole, tmp_path):
    other = make(tmp_path / "other", plan=PairPlan(pairs=50, shard=20, batch=3, seed=3))
    one, two = PairStore(whole).batch(range(50)), other.batch(range(50))
    assert torch.equal(one["cond/label"], two["cond/label"])
    assert torch.equal(one["x0"], two["x0"])
    reseeded = make(tmp_path / "reseeded", plan=PairPlan(pairs=50, shard=20, batch=8, seed=4))
    assert not torch.equal(reseeded.batch(range(50))["x0"], one["x0"])


def test_temperature_scales_the_noise(whole, tmp_path):
    cold = make(tmp_path / "cold", sampler=Sampler(steps=2, temperature=0.5))
    torch.testing.assert_close(cold.batch(range(50))["x0"], 0.5 * PairStore(whole).batch(range(50))["x0"])


def mixture_pairs(folder: Path, law: GaussianMixture, n: int, **options: float) -> dict[str, torch.Tensor]:
    """Pairs of the exact field, x1 of ``inputs`` being real data."""
    data = law.sample(n, torch.Generator().manual_seed(5))
    store = generate_pairs(
        folder, FlowMatching(path=law.path), Networks({"main": ExactNetwork(law)}),
        lambda numbers: Batch(x1=data[list(numbers)]), plan=PairPlan(n, batch=512, **options),
        sampler=Sampler(solver=RK4(), steps=25), provenance={"teacher": "exact"},
    )  # fmt: skip
    return {**store.batch(range(n)), "data": data}


@pytest.mark.parametrize("inverted", [0.0, 0.5, 1.0])
def test_ends_keep_their_laws_and_transport_costs_less_for_every_convex_cost(tmp_path, inverted):
    law, n = GaussianMixture.ring(), 2048
    pairs = mixture_pairs(tmp_path / "p", law, n, inverted=inverted)
    generator = torch.Generator().manual_seed(9)
    for made, draw in (
        (pairs["x1"], law.sample),
        (pairs["x0"], lambda k, g: torch.randn(k, 2, generator=g, dtype=torch.float64)),
    ):
        real = [draw(n, generator) for _ in range(6)]
        floor = np.mean([energy_distance(a, b) for a, b in zip(real[:3], real[3:], strict=True)])
        assert np.mean([energy_distance(made, other) for other in real[:3]]) < 2.5 * floor
    independent = torch.randn(n, 2, generator=generator, dtype=torch.float64), law.sample(n, generator)
    for power in (1.0, 2.0, 4.0):
        assert transport_cost(pairs["x0"], pairs["x1"], power=power) < transport_cost(*independent, power=power)


def test_inverted_pairs_end_in_the_real_data_and_belong_to_the_same_map(tmp_path):
    law = GaussianMixture.ring()
    pairs = mixture_pairs(tmp_path / "p", law, 512, inverted=1.0)
    assert torch.equal(pairs["x1"], pairs["data"])
    again = solve(law.field(), pairs["x0"], solver=RK4(), controller=FixedSteps(100)).x
    assert float((again - pairs["x1"]).norm(dim=1).mean()) < 1e-3


def test_the_energy_identity_holds_for_pairs(tmp_path):
    """E|X1 - X0|^2 - E|Z1 - Z0|^2 = S(Z) + V(X0, X1), with the Z of the store."""
    law, n = GaussianMixture.ring(), 8192
    pairs = mixture_pairs(tmp_path / "p", law, n)
    x0, field = pairs["x0"], law.field()
    generator = torch.Generator().manual_seed(2)
    x1 = law.sample(n, generator)
    path = solve(field, x0, solver=Euler(), controller=FixedSteps(100), save=Save.STEPS)
    assert path.xs is not None
    assert path.ts is not None
    crossing = degree_of_intersection(field, LinearPath(), x0, x1, times=4, generator=generator).mean()
    saved = transport_cost(x0, x1) - transport_cost(x0, pairs["x1"])
    assert saved == pytest.approx(straightness(path.xs, path.ts).total + float(crossing), rel=0.03)


def test_on_the_line_pairs_are_monotone(tmp_path):
    law = GaussianMixture([0.3, 0.7], [[-2.0], [1.5]], [0.5, 0.2])
    pairs = mixture_pairs(tmp_path / "p", law, 500)
    order = pairs["x0"][:, 0].argsort()
    assert bool((pairs["x1"][order, 0].diff() > 0).all())


# Killed anywhere


def test_a_killed_generation_goes_on_and_equals_the_undisturbed_one(whole, tmp_path):
    folder = tmp_path / "killed"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    early, late = sorted(random.SystemRandom().sample(range(PLAN.pairs), 2))
    for last in (early, late):
        words = [sys.executable, making.__file__, str(folder), str(last)]
        assert subprocess.run(words, env=environment, check=False, capture_output=True).returncode == -9
        if (folder / "manifest.json").exists():
            with pytest.raises(UserError, match=r"not complete|holds no pairs"):
                PairStore(folder)
    asked: list[int] = []
    make(folder, on_progress=lambda done, total: asked.append(done))
    assert content(folder) == content(whole)
    assert asked[-1] == PLAN.pairs


def test_a_finished_store_is_left_alone_and_a_lost_shard_is_made_anew(whole, tmp_path):
    folder = tmp_path / "again"
    make(folder)
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    (folder / "shard-00001.safetensors").unlink()
    make(folder)
    assert content(folder) == content(whole)
    assert (folder / "shard-00000.safetensors").stat().st_mtime_ns == times["shard-00000.safetensors"]


# What is refused


def damage(folder: Path, how: str) -> None:
    shard, manifest = folder / "shard-00001.safetensors", folder / "manifest.json"
    if how == "shard missing":
        shard.unlink()
    elif how == "truncated":
        shard.write_bytes(shard.read_bytes()[:-5])
    elif how == "flipped":
        content = bytearray(shard.read_bytes())
        content[-40] ^= 1
        shard.write_bytes(content)
    elif how == "no manifest":
        manifest.unlink()
    elif how == "cut manifest":
        manifest.write_text(manifest.read_text()[:200])
    else:
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **json.loads(how)}))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("shard missing", "shard-00001.safetensors is missing"),
        ("truncated", "shard-00001.safetensors is truncated"),
        ("flipped", "shard-00001.safetensors is damaged"),
        ("no manifest", "holds no pairs"),
        ("cut manifest", "manifest.json is damaged"),
        ('{"format": 2}', "newer"),
        ('{"complete": false}', "not complete"),
        ('{"provenance": {"teacher": "xyz"}}', "another teacher"),
    ],
)
def test_a_store_that_is_not_whole_or_not_ours_is_refused_in_one_line(tmp_path, how, words):
    make(tmp_path / "s")
    damage(tmp_path / "s", how)
    with pytest.raises(UserError, match=words) as caught:
        PairStore(tmp_path / "s", teacher="abc")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"provenance": {"teacher": "xyz"}}, "pairs of another teacher"),
        ({"plan": PairPlan(pairs=50, shard=20, batch=8, seed=9)}, "pairs of another seed"),
        ({"plan": PairPlan(pairs=40, shard=20, batch=8, seed=3)}, r"pairs of another number \(50, now 40\)"),
    ],
)
def test_a_folder_with_other_pairs_is_not_overwritten(tmp_path, options, words):
    make(tmp_path / "s")
    before = content(tmp_path / "s")
    with pytest.raises(UserError, match=words):
        make(tmp_path / "s", **options)
    assert content(tmp_path / "s") == before


def test_pairs_that_do_not_arrive_are_left_out_and_counted(tmp_path):
    store = make(tmp_path / "s", broken=[4, 5, 30])
    assert sorted(store.batch(range(47))["cond/label"].tolist()) == [i for i in range(50) if i not in (4, 5, 30)]
    assert sum(shard["failed"] for shard in store.manifest["shards"]) == 3
    with pytest.raises(UserError, match="no pair of 20 arrived"):
        make(tmp_path / "t", broken=range(50))


def test_what_cannot_be_stored_or_made_is_refused(tmp_path):
    redrawn = Batch(x1=torch.zeros(8, 2), cond=Cond(redraw=lambda cond, t, step, generator: cond))
    for made, words in ((redrawn, "redrawn"), (Batch(), "gave no x1")):
        with pytest.raises(UserError, match=words):
            generate_pairs(
                tmp_path / words, FlowMatching(), Networks({"main": making.Drift()}), lambda numbers, b=made: b,
                plan=PairPlan(8, batch=8), sampler=Sampler(), provenance={"teacher": "abc"},
            )  # fmt: skip
    for wrong in ({"pairs": 0}, {"batch": 0}, {"inverted": 1.5}):
        with pytest.raises(UserError):
            PairPlan(**wrong)


def test_the_hash_of_weights_sees_every_bit_and_no_order():
    a, b = torch.randn(3, 2), torch.arange(4)
    digest = weights_digest({"a": a, "b": b})
    assert digest == weights_digest({"b": b.clone(), "a": a.clone()})
    assert digest != weights_digest({"a": a, "b": b + 1})
    assert digest != weights_digest({"a": a.reshape(2, 3), "b": b})
    assert digest != weights_digest({"c": a, "b": b})


def test_a_share_of_inverted_batches_needs_shards_of_whole_batches():
    with pytest.raises(UserError, match="no multiple"):
        PairPlan(pairs=100, shard=100, batch=64, inverted=0.5)
    plan = PairPlan(pairs=640, shard=128, batch=64, inverted=0.3)
    assert sum(plan.runs_backward(first) for first in range(0, 640, 64)) == 3
