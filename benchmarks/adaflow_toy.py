"""Does AdaFlow spend its calls where the answer is open? The paper's one-dimensional toy (acceptance 1 and 2 of the
AdaFlow card).

States x; the answer is 0 for x <= 0 and x or -x, equally likely, for x > 0. First with the exact field and its exact
spread: uniform Euler steps beside steps that follow the spread. Then learnt, three seeds: AdaFlow with the head on
shared features and with a second network, each beside uniform steps of its velocity; behaviour cloning; a diffusion
model of 100 levels sampled by DDIM. Asked of both AdaFlows, mean over the seeds, at eta 0.5 and at most 5 steps:

(a) both modes in at least 95 % of the states x >= 1 (each gets 20 % of the answers within 25 % of it); behaviour
    cloning in none;
(b) at most 2.3 evaluations on average, and at most 1.05 where x <= 0;
(c) rms W2 over the states at most 0.9 of that of two Euler steps;
(d) the spread at t = 0 within 12 % of x for x >= 1.

    python benchmarks/adaflow_toy.py --out benchmarks/out/adaflow_toy.json
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowkit import atomic
from flowkit.cond import Cond
from flowkit.couplings import Batch
from flowkit.fields import DataPrediction, Evaluation, NoisePrediction, Velocity
from flowkit.nn.mlp import MLP
from flowkit.objectives import AdaFlow, FlowMatching, Networks, Objective, Regression
from flowkit.paths import DiffusionPath
from flowkit.solvers.controllers import FixedSteps
from flowkit.solvers.ddim import DDIM
from flowkit.solvers.euler import Euler
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.solve import solve
from flowkit.solvers.solver import Controller
from flowkit.solvers.variance_adaptive import VarianceAdaptive
from flowkit.times import GridTimes

STATES = torch.linspace(-5.0, 5.0, 41, dtype=torch.float64)
RULE = VarianceAdaptive(0.5, 5)


def noises(n: int) -> Tensor:
    """Stratified draws of N(0, 1)."""
    return torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)


def distance(answers: Tensor, x: float) -> float:
    """W2 of answers (n,) to +-x, or to 0 where x <= 0."""
    half, mode = len(answers) // 2, max(x, 0.0)
    true = torch.full_like(answers, mode)
    true[:half] = -mode
    return (answers.sort().values - true).square().mean().sqrt().item()


def root_mean_square(values: list[float]) -> float:
    """sqrt(mean(v^2))."""
    return math.sqrt(statistics.fmean(v * v for v in values))


def exact_field(x: Tensor, t: Tensor, cond: Cond) -> Evaluation:
    """Two points +-m on the linear path, in closed form."""
    m = cond["m"]
    q = torch.tanh(t * m * x / (1 - t) ** 2)
    return Evaluation((m * q - x) / (1 - t), {"log_sigma": (m * torch.sqrt((1 - q) * (1 + q)) / (1 - t)).log()})


def exact(controller: Controller, n: int) -> dict[str, float]:
    """rms W2 over the states, and evaluations: the mean, and the most where the answer is certain."""
    errors, counts = [], []
    for x in STATES.tolist():
        cond = Cond({"m": torch.full((n,), max(x, 0.0), dtype=torch.float64)})
        solution = solve(exact_field, noises(n), solver=Euler(), controller=controller, cond=cond)
        errors.append(distance(solution.x, x))
        counts.append(solution.evaluations.double())
    certain = torch.cat([count for x, count in zip(STATES.tolist(), counts, strict=True) if x <= 0])
    return {
        "rms_w2": root_mean_square(errors),
        "nfe": torch.cat(counts).mean().item(),
        "nfe_certain": certain.max().item(),
    }


def train(objective: Objective, *, seed: int, epochs: int, lr: float = 5e-3) -> Networks:
    """Adam on a cosine with ten steps of warm-up; 10,000 points, batches of 1,000. The networks have 4 x 100 units."""
    torch.manual_seed(seed)
    networks = Networks.build(
        objective.needs(), lambda spec: MLP(spec, dimension=1, width=100, depth=4, frequencies=2, vectors={"x": 1})
    )
    generator = torch.Generator().manual_seed(seed)
    x = 20 * torch.rand(10_000, 1, generator=generator) - 10
    y = x.clamp_min(0.0) * (2 * torch.randint(2, (10_000, 1), generator=generator) - 1)
    optimiser = torch.optim.Adam(networks.parameters(), lr=lr)
    steps = 10 * epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda i: min(1.0, (i + 1) / 10) * 0.5 * (1 + math.cos(math.pi * i / steps))
    )
    for _ in range(epochs):
        for rows in torch.randperm(10_000, generator=generator).split(1000):
            batch = Batch(x1=y[rows], cond=Cond({"x": x[rows]}))
            loss = objective.loss(networks, batch, generator=generator).total
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
    return networks.eval()


@torch.no_grad()
def answers(objective: Objective, networks: Networks, sampler: Sampler, n: int) -> dict[str, float]:
    """rms W2, evaluations, and the share of the states x >= 1 where both modes are found."""
    errors, counts, certain, found = [], [], [], []
    for x in STATES.tolist():
        cond = Cond({"x": torch.full((n, 1), x)})
        x0 = noises(n).float()[:, None]
        solution = objective.generate(networks, torch.zeros(n, 1), cond, sampler=sampler, x0=x0)
        y = solution.x[:, 0]
        errors.append(distance(y, x))
        counts.append(solution.evaluations.double().mean().item())
        if x <= 0:
            certain.append(counts[-1])
        if x >= 1:
            share = [((y - side * x).abs() <= 0.25 * x).double().mean().item() for side in (-1, 1)]
            found.append(float(min(share) >= 0.2))
    return {
        "rms_w2": root_mean_square(errors),
        "nfe": statistics.fmean(counts),
        "nfe_certain": statistics.fmean(certain),
        "both_modes": statistics.fmean(found),
    }


@torch.no_grad()
def spreads(objective: AdaFlow, networks: Networks, n: int) -> dict[str, float]:
    """The learnt spread at t = 0, root mean square over noises, by state."""
    field = objective.field(networks)
    out = {}
    for x in STATES.tolist():
        cond = Cond({"x": torch.full((n, 1), x)})
        told = field(noises(n).float()[:, None], torch.zeros(n), cond).heads["log_sigma"]
        out[f"{x:g}"] = (2 * told).exp().mean().sqrt().item()
    return out


def learn(seed: int, *, epochs: int, n: int, prediction: str) -> dict[str, Any]:
    """All methods of one seed."""
    meaning = {"velocity": Velocity, "data": DataPrediction}[prediction]
    out: dict[str, Any] = {"seed": seed, "methods": {}}

    def timed(name: str, objective: Objective, epochs: int, samplers: dict[str, Sampler]) -> Networks:
        start = time.perf_counter()
        networks = train(objective, seed=seed, epochs=epochs)
        seconds = time.perf_counter() - start
        for suffix, sampler in samplers.items():
            out["methods"][name + suffix] = {**answers(objective, networks, sampler, n), "train_s": seconds}
        return networks

    for variance in ("shared", "separate"):
        objective = AdaFlow(variance=variance, prediction=meaning())
        samplers = {
            ", eta 0.5, 5": Sampler(controller=RULE),
            ", Euler 1": Sampler(steps=1),
            ", Euler 2": Sampler(steps=2),
            ", Euler 5": Sampler(steps=5),
        }
        networks = timed(f"AdaFlow {variance}", objective, epochs, samplers)
        told = out[f"spread_{variance}"] = spreads(objective, networks, n)
        out[f"spread_error_{variance}"] = max(abs(told[f"{x:g}"] / x - 1) for x in STATES.tolist() if x >= 1)
    timed("behaviour cloning", Regression(), epochs, {"": Sampler()})
    diffusion = FlowMatching(path=DiffusionPath("linear", 100), prediction=NoisePrediction(), times=GridTimes(100))
    ddim = {f", DDIM {k}": Sampler(solver=DDIM(clip=10.0), steps=k) for k in (1, 2, 5)}
    timed("diffusion", diffusion, epochs, ddim)
    return out


def verdict(runs: list[dict[str, Any]]) -> dict[str, dict[str, bool]]:
    """What the card asks, of the means over the seeds."""

    def mean(method: str, what: str) -> float:
        return statistics.fmean(run["methods"][method][what] for run in runs)

    out = {}
    for variance in ("shared", "separate"):
        name = f"AdaFlow {variance}, eta 0.5, 5"
        uniform = f"AdaFlow {variance}, Euler 2"
        out[variance] = {
            "a_both_modes": mean(name, "both_modes") >= 0.95 and mean("behaviour cloning", "both_modes") == 0.0,
            "b_evaluations": mean(name, "nfe") <= 2.3 and mean(name, "nfe_certain") <= 1.05,
            "c_distance": mean(name, "rms_w2") <= 0.9 * mean(uniform, "rms_w2"),
            "d_spread": statistics.fmean(run[f"spread_error_{variance}"] for run in runs) <= 0.12,
        }
    return out


def table(runs: list[dict[str, Any]]) -> None:
    """Print means over the seeds, and each seed's W2."""
    print("\n| learnt | rms W2 (each seed) | NFE | NFE, x <= 0 | both modes, x >= 1 |\n|---|---|---|---|---|")
    for method in runs[0]["methods"]:
        rows = [run["methods"][method] for run in runs]
        means = {name: statistics.fmean(row[name] for row in rows) for name in rows[0]}
        each = ", ".join(f"{row['rms_w2']:.2f}" for row in rows)
        print(
            f"| {method} | {means['rms_w2']:.3f} ({each}) | {means['nfe']:.2f} | {means['nfe_certain']:.2f} "
            f"| {100 * means['both_modes']:.0f} % |"
        )
    print(
        "\n| spread at t = 0 | x = 0.5 | 1 | 2.5 | 5 | largest error, x >= 1 (each seed) |\n|---|---|---|---|---|---|"
    )
    for variance in ("shared", "separate"):
        cells = [
            f"{statistics.fmean(run[f'spread_{variance}'][x] for run in runs):.2f}" for x in ("0.5", "1", "2.5", "5")
        ]
        each = ", ".join(f"{100 * run[f'spread_error_{variance}']:.0f} %" for run in runs)
        print(f"| {variance} | {' | '.join(cells)} | {each} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/adaflow_toy.json"))
    parser.add_argument("--epochs", type=int, default=400, help="of 10 steps (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--noises", type=int, default=4000, help="for each state (default %(default)s)")
    parser.add_argument("--prediction", choices=("velocity", "data"), default="data", help="of AdaFlow's network")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    controllers: dict[str, Callable[[], Controller]] = {
        **{f"Euler, {k} uniform steps": (lambda k=k: FixedSteps(k)) for k in (2, 3, 5, 10, 20)},
        **{
            f"eta {eta:g}, at most {most}": (lambda eta=eta, most=most: VarianceAdaptive(eta, most))
            for eta, most in ((0.5, 5), (0.35, 5), (0.1, 20))
        },
    }
    closed = {name: exact(make(), arguments.noises) for name, make in controllers.items()}
    print("| exact field | rms W2 | NFE | most NFE, x <= 0 |\n|---|---|---|---|")
    for name, row in closed.items():
        print(f"| {name} | {row['rms_w2']:.4f} | {row['nfe']:.2f} | {row['nfe_certain']:.0f} |")

    sizes = {"epochs": arguments.epochs, "n": arguments.noises, "prediction": arguments.prediction}
    runs = [learn(seed, **sizes) for seed in range(arguments.seeds)]
    table(runs)
    asked = verdict(runs)
    print(
        "\nasked:", ", ".join(f"{v} {k} {'yes' if ok else 'NO'}" for v, row in asked.items() for k, ok in row.items())
    )
    machine = platform.processor() or platform.machine()
    result = {**sizes, "torch": torch.__version__, "machine": machine, "exact": closed, "runs": runs, "asked": asked}
    atomic.write_json(arguments.out, result)


if __name__ == "__main__":
    main()
