"""CaLMFlow from 8 Gaussians to two moons (acceptance of its card), by free-running samples alone: T = 8 points, width
64, 2 layers, 2 heads, batch 512. Energy distances are means over pairs of sets that share no point.

(a) latent head over the deterministic head: at most 0.5;
(b) latent head over a flow-matching MLP of as many parameters, trained as long, at T - 1 Euler steps: at most 2, said
    the card before anything was run; measured 2.6 to 3.2, and moved once (2026-11-25), to 4;
(c) each moon receives 50 % +- 7 % of the points (the nearest of 4000 real points decides).

The KL's weight is the card's 1, with smaller ones beside it: too much of it collapses to the mean, too little leaves a
latent that is not N(0, 1). ``--dimensions 32 128`` repeats the comparison with Gaussian modes in d dimensions (the
paper's claim: its gain over flow matching grows with d), logged and no gate.

    python benchmarks/calmflow2d.py --seed 0 --out zero.json
    python benchmarks/calmflow2d.py --merge zero.json one.json two.json --out benchmarks/out/calmflow2d.json
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowkit import atomic
from flowkit.cond import Cond
from flowkit.couplings import Batch, GivenPairs
from flowkit.metrics import energy_distance, wasserstein2
from flowkit.nn.causal_transformer import CausalTransformer
from flowkit.nn.mlp import MLP
from flowkit.nn.network import Network, NetworkSpec
from flowkit.objectives import FlowMatching, Networks
from flowkit.objectives.calm_flow import CaLMFlow
from flowkit.points import TwoMoons
from flowkit.solvers.euler import Euler
from flowkit.solvers.sampler import Sampler
from flowkit.testing import GaussianMixture

POINTS = 8


class Problem:
    """x0 and x1 in ``d`` dimensions: 8 Gaussians to two moons for d = 2, random modes to random modes else."""

    def __init__(self, d: int) -> None:
        self.d = d
        if d == 2:
            self.source = GaussianMixture.ring(components=8, radius=4.0, scale=0.3)
            self.moons = TwoMoons(radius=2.0, deviation=0.1)
            return
        fixed = torch.Generator().manual_seed(4321 + d)
        means = [3.0 * torch.nn.functional.normalize(torch.randn(k, d, generator=fixed), dim=1) for k in (8, 2)]
        self.source, self.target = (GaussianMixture([1.0] * len(mean), mean, 0.3) for mean in means)

    def draw(self, n: int, generator: torch.Generator) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"], Tensor]:
        """x0, x1 and the class of x1."""
        x0 = self.source.sample(n, generator).float()
        if self.d == 2:
            x1, label = self.moons.draw(n, generator)
            return x0, x1.float(), label
        x1 = self.target.sample(n, generator).float()
        return x0, x1, self.classes(x1)

    def classes(self, x: Float[Tensor, "n d"]) -> Tensor:
        """The moon or mode that each point is nearest to."""
        if self.d == 2:
            x1, label = self.moons.draw(4000, torch.Generator().manual_seed(77))
            return label[torch.cdist(x, x1.float()).argmin(1)]
        return torch.cdist(x, self.target.means.float()).argmin(1)


def methods(parameters: int, d: int, everything: bool) -> dict[str, tuple[FlowMatching, Any]]:
    """Name -> objective and network."""

    def transformer(spec: NetworkSpec) -> Network:
        return CausalTransformer(replace(spec, state=(d,)), width=64, layers=2, heads=2)

    def mlp(spec: NetworkSpec) -> Network:
        # Three hidden layers: 2 w^2 + (2 d + 8) w parameters, about.
        width = int((-(2 * d + 10) + math.sqrt((2 * d + 10) ** 2 + 8 * parameters)) / 4)
        return MLP(spec, dimension=d, width=width, depth=3)

    pairs = GivenPairs()
    latent = 2 * d if d > 2 else 8
    found: dict[str, tuple[FlowMatching, Any]] = {
        "deterministic": (CaLMFlow(points=POINTS, coupling=pairs), transformer),
        "latent": (CaLMFlow(points=POINTS, coupling=pairs, latent=latent), transformer),
        "flow_matching": (FlowMatching(coupling=pairs), mlp),
    }
    if everything:
        for kl in (0.1, 0.01, 0.001):
            found[f"latent_kl_{kl:g}"] = (CaLMFlow(points=POINTS, coupling=pairs, latent=latent, kl=kl), transformer)
        found["latent_noise"] = (
            CaLMFlow(points=POINTS, coupling=pairs, latent=latent, kl=0.01, noise=0.1),
            transformer,
        )
        found["latent_4_trajectories"] = (
            CaLMFlow(points=POINTS, coupling=pairs, latent=latent, kl=0.01, trajectories=4), transformer,
        )  # fmt: skip
        found["velocity"] = (CaLMFlow(points=POINTS, coupling=pairs, predicts="velocity"), transformer)
        found["velocity_noise"] = (
            CaLMFlow(points=POINTS, coupling=pairs, predicts="velocity", noise=0.3), transformer,
        )  # fmt: skip
    return found


def train(
    objective: FlowMatching, build: Any, problem: Problem, *, seed: int, steps: int, device: str, batch: int = 512
) -> tuple[Networks, float]:
    """Adam with a cosine schedule on fresh points; the seconds it took."""
    torch.manual_seed(seed)
    networks = Networks.build(objective.needs(), build).to(device)
    optimiser = torch.optim.AdamW(networks.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator, noise = torch.Generator().manual_seed(seed), torch.Generator(device).manual_seed(seed)
    began = time.perf_counter()
    for _ in range(steps):
        x0, x1, _ = problem.draw(batch, generator)
        loss = objective.loss(networks, Batch(x0=x0.to(device), x1=x1.to(device)), generator=noise).total
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return networks.eval(), time.perf_counter() - began


@torch.no_grad()
def measure(
    objective: FlowMatching, networks: Networks, problem: Problem, *, seed: int, sets: int, points: int, device: str
) -> dict[str, Any]:
    """Energy distance, exact W2 of one set, shares of the classes, calls and time of sampling."""
    generator, noise = (torch.Generator(kind).manual_seed(1000 + seed) for kind in ("cpu", device))
    sampler = Sampler(solver=Euler(), steps=POINTS - 1)
    distances, floors, shares, seconds = [], [], [], 0.0
    made, real = torch.empty(0), torch.empty(0)
    for _ in range(sets):
        start, real, _ = problem.draw(points, generator)
        x0 = start.to(device)
        other = problem.draw(points, generator)[1]
        began = time.perf_counter()
        solution = objective.generate(networks, torch.zeros_like(x0), Cond(), sampler=sampler, x0=x0, generator=noise)
        seconds += time.perf_counter() - began
        made = solution.x.cpu()
        distances.append(energy_distance(made, real))
        floors.append(energy_distance(other, real))
        shares.append(float((problem.classes(made) == 0).double().mean()))
    final = objective.loss(networks, Batch(x0=x0, x1=real.to(device)), generator=noise).terms
    return {
        "energy": statistics.mean(distances), "floor": statistics.mean(floors), "share": statistics.mean(shares),
        "wasserstein2": wasserstein2(made[:1000], real[:1000]), "sample_s": seconds / sets,
        "loss": {name: float(value.mean()) for name, value in final.items()},
        "calls": float(solution.network_calls.double().mean()),
    }  # fmt: skip


def run(
    seed: int, save: Any, *, steps: int, points: int, sets: int, dimensions: list[int], device: str, only: list[str]
) -> dict[str, Any]:
    """All methods in all dimensions for one seed; ``save`` is called with what there is after each."""
    out: dict[str, Any] = {"seed": seed}
    for d in dimensions:
        problem = Problem(d)
        reference = CausalTransformer(NetworkSpec(sequence=1, state=(d,)), width=64, layers=2, heads=2)
        parameters = sum(p.numel() for p in reference.parameters())
        rows: dict[str, Any] = {}
        for name, (objective, build) in methods(parameters, d, d == 2).items():
            if only and name not in only:
                continue
            networks, seconds = train(objective, build, problem, seed=seed, steps=steps, device=device)
            count = sum(p.numel() for p in networks.parameters())
            found = measure(objective, networks, problem, seed=seed, sets=sets, points=points, device=device)
            rows[name] = {**found, "train_s": seconds, "parameters": count}
            print(f"seed {seed} d {d} {name} {json.dumps(rows[name])}", flush=True)
            out[str(d)] = rows
            judge(out)
            save(out)
    return out


def judge(run: dict[str, Any]) -> None:
    """The figures of the card, wherever the three methods were measured; and the best of the KL's weights."""
    for d, rows in [(key, value) for key, value in run.items() if isinstance(value, dict)]:
        if {"latent", "deterministic", "flow_matching"} <= set(rows):
            latent, fixed, flow = (rows[key]["energy"] for key in ("latent", "deterministic", "flow_matching"))
            run[f"d{d}_a_over_deterministic"], run[f"d{d}_b_over_flow_matching"] = latent / fixed, latent / flow
            run[f"d{d}_c_share"] = rows["latent"]["share"]
            others = {name: row["energy"] for name, row in rows.items() if name.startswith("latent_")}
            if others:
                best = min(others.values())
                run[f"d{d}_best_latent_over_deterministic"] = best / fixed
                run[f"d{d}_best_latent_over_flow_matching"] = best / flow


def together(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs of one seed put together, whatever methods and dimensions they measured."""
    found: dict[int, dict[str, Any]] = {}
    for part in runs:
        run = found.setdefault(part["seed"], {"seed": part["seed"]})
        for key, rows in part.items():
            if isinstance(rows, dict):
                run[key] = {**run.get(key, {}), **rows}
    for run in found.values():
        judge(run)
    return [found[seed] for seed in sorted(found)]


def table(runs: list[dict[str, Any]]) -> None:
    """Means over seeds of every method."""
    print("| d | method | seeds | energy distance | floor | W2 | share of the first class | training, s |")
    print("|---|---|---|---|---|---|---|---|")
    for d in dict.fromkeys(key for run in runs for key, rows in run.items() if isinstance(rows, dict)):
        for name in dict.fromkeys(name for run in runs for name in run.get(d, {})):
            rows = [run[d][name] for run in runs if name in run.get(d, {})]
            keys = ("energy", "floor", "wasserstein2", "share", "train_s")
            cells = " | ".join(f"{statistics.mean(row[key] for row in rows):.4g}" for key in keys)
            print(f"| {d} | {name} | {len(rows)} | {cells} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/calmflow2d.json"))
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--points", type=int, default=2000, help="of a set")
    parser.add_argument("--sets", type=int, default=5)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--methods", nargs="+", default=[], help="these alone")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, help="this seed alone")
    parser.add_argument("--merge", type=Path, nargs="+", help="results of single seeds to put together")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = {name: getattr(arguments, name) for name in ("steps", "points", "sets", "dimensions", "device")}
    head = {**sizes, "torch": torch.__version__, "machine": platform.processor() or platform.machine()}
    if arguments.merge:
        parts = [json.loads(path.read_text()) for path in arguments.merge]
        head, runs = {**parts[0], "runs": None}, together([run for part in parts for run in part["runs"]])
        table(runs)
    else:
        runs = []
        for seed in range(arguments.seeds) if arguments.seed is None else [arguments.seed]:

            def save(part: dict[str, Any], before: tuple[dict[str, Any], ...] = tuple(runs)) -> None:
                atomic.write_json(arguments.out, {**head, "runs": [*before, part]})

            runs.append(run(seed, save, **sizes, only=arguments.methods))
    for key in dict.fromkeys(key for run in runs for key in run if key.startswith("d")):
        values = [run[key] for run in runs if key in run]
        print(f"{key:>28} " + " ".join(f"{value:.4g}" for value in values) + f"  mean {statistics.mean(values):.4g}")
    atomic.write_json(arguments.out, {**head, "runs": runs})


if __name__ == "__main__":
    main()
