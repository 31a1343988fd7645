"""Does it learn? The benchmark of the flow-matching card, reduced; the full one is benchmarks/toy2d.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from flowkit.cond import Cond
from flowkit.couplings import Batch, MinibatchOT
from flowkit.metrics import straightness
from flowkit.nn.mlp import MLP
from flowkit.objectives import FlowMatching, Networks
from flowkit.paths import LinearPath
from flowkit.solvers.controllers import FixedSteps
from flowkit.solvers.euler import Euler
from flowkit.solvers.save import STEPS
from flowkit.solvers.solve import solve
from flowkit.times import StratifiedTimes


@pytest.fixture(scope="module")
def toy2d() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "toy2d.py"
    spec = importlib.util.spec_from_file_location("benchmarks_toy2d", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_short_training_finds_the_eight_modes(toy2d: ModuleType) -> None:
    objective, networks = toy2d.train(LinearPath(), seed=0, steps=500, batch=256)
    figures = toy2d.measure(objective, networks, seed=0, points=500, sets=2, likelihood_points=200)
    assert figures["not_arrived"] == 0.0
    assert figures["energy_distance"] < 4 * figures["energy_floor"]  # 76 times without training, 2.1 with
    assert figures["nll"] - figures["nll_true"] < 0.8  # 4.0 nats without training, 0.57 with
    assert 30 < figures["nfe"] < 120


def test_optimal_transport_in_the_batch_straightens_the_flow(toy2d: ModuleType) -> None:
    relative = {}
    for coupling in (None, MinibatchOT()):
        torch.manual_seed(0)
        times = StratifiedTimes()
        objective = FlowMatching(times=times) if coupling is None else FlowMatching(times=times, coupling=coupling)
        networks = Networks.build(objective.needs(), lambda spec: MLP(spec, width=64, depth=2))
        optimiser, g = torch.optim.Adam(networks.parameters(), lr=5e-3), torch.Generator().manual_seed(0)
        for _ in range(250):
            loss = objective.loss(networks, Batch(x1=toy2d.LAW.sample(128, g).float()), generator=g).total
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        x0 = objective.source.draw(torch.zeros(500, 2), Cond(), g)
        with torch.no_grad():
            out = solve(objective.field(networks), x0, solver=Euler(), controller=FixedSteps(20), save=STEPS)
        assert out.xs is not None
        assert out.ts is not None
        relative[coupling is None] = straightness(out.xs, out.ts).relative
    # Measured: 0.030 against 0.592.
    assert relative[False] < 0.2 * relative[True], relative


@pytest.mark.slow
def test_the_acceptance_of_the_card(toy2d: ModuleType) -> None:
    runs = [toy2d.compare(seed, 3000) for seed in range(3)]
    mean = {key: sum(run[key] for run in runs) / len(runs) for key in ("a_energy_ratio", "c_nfe_ratio")}
    # Measured: (a) 1.09, 1.48, 1.17; (b) 0.026, 0.032, 0.031; (c) 0.80, 0.88, 0.79.
    assert mean["a_energy_ratio"] <= 1.5
    assert max(run["b_nll_gap"] for run in runs) <= 0.05
    assert mean["c_nfe_ratio"] <= 0.85
