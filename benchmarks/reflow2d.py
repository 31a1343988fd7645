"""What does one reflow buy? The mixture recipe, before and after, three seeds (acceptance of the rectified-flow card).

(a) S of the second flow over S of the first (straightness of 100 Euler steps): at most 0.05;
(b) exact W2 of one Euler step to real points, second over first: at most 0.25;
(c) E|Z1 - Z0|^p for p = 1, 2, 4: not above that of the pairs by more than 2 %;
and the energy distance at 1, 2 and 4 Euler steps and with 50 RK4 steps, over that of two real sets (floor).

    python benchmarks/reflow2d.py --out benchmarks/out/reflow2d.json
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from flowkit import atomic
from flowkit.artifacts import from_pretrained
from flowkit.config.recipe import load_recipe
from flowkit.metrics import energy_distance, straightness, transport_cost, wasserstein2
from flowkit.solvers.controllers import FixedSteps
from flowkit.solvers.euler import Euler
from flowkit.solvers.rk4 import RK4
from flowkit.solvers.save import Save
from flowkit.solvers.solve import solve
from flowkit.testing import GaussianMixture
from flowkit.train.reflow import Reflow
from flowkit.train.trainer import Trainer

RECIPE = "generic/mixture-flow-matching"
LAW = GaussianMixture.ring(components=8, radius=3.0, scale=0.3)
SAMPLERS = {"1": (Euler(), 1), "2": (Euler(), 2), "4": (Euler(), 4), "exact": (RK4(), 50)}


@torch.no_grad()
def measure(run: Path, *, seed: int, points: int, sets: int) -> dict[str, float]:
    """Everything of one run, from its saved weights."""
    task = from_pretrained(run).task
    field = task.objective.field(task.networks)
    generator = torch.Generator().manual_seed(1000 + seed)
    x0 = torch.randn(sets * points, 2, generator=generator)
    real = LAW.sample(sets * points, generator).float().split(points)
    out: dict[str, float] = {}
    for name, (solver, steps) in SAMPLERS.items():
        made = solve(field, x0, solver=solver, controller=FixedSteps(steps)).x
        distances = [energy_distance(a, b) for a, b in zip(made.split(points), real, strict=True)]
        out[f"energy_{name}"] = statistics.mean(distances)
        out[f"wasserstein2_{name}"] = wasserstein2(made[:points][:2000], real[0][:2000])
        if name == "exact":
            out |= {f"cost_{power:g}": transport_cost(x0, made, power=power) for power in (1.0, 2.0, 4.0)}
    path = solve(field, x0[:points], solver=Euler(), controller=FixedSteps(100), save=Save.STEPS)
    assert path.xs is not None
    assert path.ts is not None
    straight = straightness(path.xs, path.ts)
    return {**out, "straightness": straight.total, "relative_straightness": straight.relative}


def floor(*, seed: int, points: int, sets: int) -> dict[str, float]:
    """Two real sets."""
    generator = torch.Generator().manual_seed(2000 + seed)
    one, two = (LAW.sample(sets * points, generator).split(points) for _ in range(2))
    distances = [energy_distance(a, b) for a, b in zip(one, two, strict=True)]
    return {"energy": statistics.mean(distances), "wasserstein2": wasserstein2(one[0][:2000], two[0][:2000])}


def compare(seed: int, folder: Path, *, steps: int, pairs: int, points: int, sets: int) -> dict[str, Any]:
    """Train the recipe, one round of reflow on it, and measure both."""
    quiet = [
        ("trainer.device", "cpu"), ("trainer.evaluate_every", "0"), ("trainer.sample_every", "0"),
        ("trainer.tensorboard", "false"), ("trainer.progress", "false"), ("trainer.steps", str(steps)),
        ("seed", str(seed)),
    ]  # fmt: skip
    recipe = load_recipe(RECIPE, quiet, trainer=Trainer)
    built = recipe.build()
    first, second = folder / f"{seed}-first", folder / f"{seed}-second"
    began = time.perf_counter()
    built.trainer.fit(built.task, built.data, sampler=built.sampler, seed=seed, folder=first, recipe_text=recipe.dump())
    middle = time.perf_counter()
    Reflow(pairs=pairs, overrides=quiet, seed=seed).round(first, second)
    end = time.perf_counter()
    before, after = (measure(run, seed=seed, points=points, sets=sets) for run in (first, second))
    return {
        "seed": seed, "before": before, "after": after, "floor": floor(seed=seed, points=points, sets=sets),
        "a_straightness_ratio": after["straightness"] / before["straightness"],
        "b_one_step_wasserstein2_ratio": after["wasserstein2_1"] / before["wasserstein2_1"],
        "c_cost_ratios": [after[f"cost_{power:g}"] / before[f"cost_{power:g}"] for power in (1.0, 2.0, 4.0)],
        "train_s": middle - began, "reflow_s": end - middle,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/reflow2d.json"))
    parser.add_argument("--steps", type=int, default=3000, help="of both trainings")
    parser.add_argument("--pairs", type=int, default=30_000)
    parser.add_argument("--points", type=int, default=4000, help="of a set")
    parser.add_argument("--sets", type=int, default=5, help="pairs of sets that an energy distance is the mean of")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = {name: getattr(arguments, name) for name in ("steps", "pairs", "points", "sets")}
    with tempfile.TemporaryDirectory() as folder:
        runs = [compare(seed, Path(folder), **sizes) for seed in range(arguments.seeds)]
    print("| seed | flow | S | S/E\\|D\\|^2 | energy distance at 1 step | 2 steps | 4 steps | exact | W2 at 1 step |")
    print("|---|---|---|---|---|---|---|---|---|")
    for run in runs:
        for name in ("before", "after"):
            row = run[name]
            keys = ("straightness", "relative_straightness", "energy_1", "energy_2", "energy_4", "energy_exact")
            cells = [f"{row[key]:.3g}" for key in (*keys, "wasserstein2_1")]
            print(f"| {run['seed']} | {name} | " + " | ".join(cells) + " |")
        print(f"| {run['seed']} | real | | | | | | {run['floor']['energy']:.3g} | {run['floor']['wasserstein2']:.3g} |")
    for run in runs:
        costs = ", ".join(f"{ratio:.4f}" for ratio in run["c_cost_ratios"])
        ratios = f"S {run['a_straightness_ratio']:.4f}, W2 {run['b_one_step_wasserstein2_ratio']:.3f}, costs {costs}"
        print(f"seed {run['seed']}: {ratios}; {run['train_s']:.0f} s and {run['reflow_s']:.0f} s")
    machine = platform.processor() or platform.machine()
    atomic.write_json(arguments.out, {**sizes, "torch": torch.__version__, "machine": machine, "runs": runs})


if __name__ == "__main__":
    main()
