"""Does flow matching learn? Eight Gaussians in the plane, three seeds, exact references (acceptance of the
flow-matching card).

(a) energy distance of dopri5 samples to real points, over that of two real sets (4000 points each, means over 20
    pairs of sets): at most 1.5;
(b) mean negative log-likelihood of 2000 real points under the model, less that under the true law: within 0.05 nat;
(c) dopri5 evaluations of the linear path over those of the VP path, trained identically: at most 0.85.

    python benchmarks/toy2d.py --out benchmarks/out/toy2d.json
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from flowkit import atomic
from flowkit.cond import Cond
from flowkit.couplings import Batch
from flowkit.likelihood import log_likelihood
from flowkit.metrics import count_summary, energy_distance, wasserstein2
from flowkit.nn.mlp import MLP
from flowkit.objectives import FlowMatching, Networks
from flowkit.paths import AffinePath, LinearPath, VPBetaPath
from flowkit.solvers.controllers import Tolerance
from flowkit.solvers.dormand_prince import DormandPrince
from flowkit.solvers.sampler import Sampler
from flowkit.testing import GaussianMixture
from flowkit.times import StratifiedTimes

LAW = GaussianMixture.ring(components=8, radius=3.0, scale=0.3)
#: The VP velocity grows without bound at t = 1: both paths train up to here, identically.
LAST_TIME = 1.0 - 1e-5


def train(
    path: AffinePath, *, seed: int, steps: int, batch: int = 512, lr: float = 1e-2
) -> tuple[FlowMatching, Networks]:
    """Train an MLP of 3 x 128 with Adam on a cosine schedule, on fresh points."""
    torch.manual_seed(seed)
    objective = FlowMatching(path=path, times=StratifiedTimes(0.0, LAST_TIME))
    networks = Networks.build(objective.needs(), lambda spec: MLP(spec, width=128, depth=3))
    optimiser = torch.optim.Adam(networks.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x1 = LAW.sample(batch, generator).float()
        loss = objective.loss(networks, Batch(x1=x1), generator=generator).total
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return objective, networks.eval()


def measure(
    objective: FlowMatching,
    networks: Networks,
    *,
    seed: int,
    points: int = 4000,
    sets: int = 20,
    likelihood_points: int = 2000,
) -> dict[str, float]:
    """Everything the card asks of one trained model."""
    generator = torch.Generator().manual_seed(1000 + seed)
    sampler = Sampler(solver=DormandPrince(), controller=Tolerance(rtol=1e-5, atol=1e-5))
    with torch.no_grad():
        made = objective.generate(networks, torch.zeros(sets * points, 2), Cond(), sampler=sampler, generator=generator)
    # The distance of two finite sets varies by 50 % from draw to draw: means over pairs that share no point.
    real = LAW.sample(3 * sets * points, generator).float().split(points)
    made_sets = made.x.split(points)
    distance = statistics.mean(energy_distance(a, b) for a, b in zip(made_sets, real[:sets], strict=True))
    floor = statistics.mean(energy_distance(a, b) for a, b in zip(real[sets : 2 * sets], real[2 * sets :], strict=True))
    x1 = LAW.sample(likelihood_points, generator)
    model = log_likelihood(
        objective.field(networks), x1.float(), controller=Tolerance(rtol=1e-6, atol=1e-6), span=(LAST_TIME, 0.0)
    )
    assert model.log_density is not None
    n = min(2000, points)
    return {
        "energy_distance": distance,
        "energy_floor": floor,
        "wasserstein2": wasserstein2(made_sets[0][:n], real[0][:n]),
        "wasserstein2_floor": wasserstein2(real[1][:n], real[0][:n]),
        "nll": -float(model.log_density.double().mean()),
        "nll_true": -float(LAW.log_prob(x1).mean()),
        "not_arrived": float(model.log_density.isnan().double().mean()),
        **{name: value for name, value in count_summary(made).items() if name.startswith("nfe")},
    }


def compare(seed: int, steps: int, **sizes: int) -> dict[str, Any]:
    """Both paths for one seed, and the three figures of the card."""
    out: dict[str, Any] = {"seed": seed}
    for name, path in (("linear", LinearPath()), ("vp", VPBetaPath())):
        start = time.perf_counter()
        objective, networks = train(path, seed=seed, steps=steps)
        seconds = time.perf_counter() - start
        out[name] = {**measure(objective, networks, seed=seed, **sizes), "train_s": seconds}
    linear, vp = out["linear"], out["vp"]
    out["a_energy_ratio"] = linear["energy_distance"] / linear["energy_floor"]
    out["b_nll_gap"] = linear["nll"] - linear["nll_true"]
    out["c_nfe_ratio"] = linear["nfe"] / vp["nfe"]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/toy2d.json"))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = [compare(seed, arguments.steps) for seed in range(arguments.seeds)]
    columns = ("seed", "energy ratio", "nll gap", "NFE ratio", "NFE", "NFE vp", "W2", "W2 floor")
    print(" ".join(f"{name:>12}" for name in columns))
    for run in runs:
        linear, vp = run["linear"], run["vp"]
        row = [run["seed"], run["a_energy_ratio"], run["b_nll_gap"], run["c_nfe_ratio"], linear["nfe"], vp["nfe"]]
        row += [linear["wasserstein2"], linear["wasserstein2_floor"]]
        print(" ".join(f"{value:>12.4g}" for value in row))
    machine = platform.processor() or platform.machine()
    result = {"steps": arguments.steps, "torch": torch.__version__, "machine": machine, "runs": runs}
    atomic.write_json(arguments.out, result)


if __name__ == "__main__":
    main()
