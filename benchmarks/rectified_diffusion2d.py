"""Is straightness what reflow needs? Eight Gaussians on the trigonometric path, before and after Rectified Diffusion.

Limits of the card: W2 of one DDIM step to real points, student over teacher, at most 0.3; first-orderness (the variance
of the data prediction along a trajectory) falls at least 20 times, while S in x-space, straightness, does not fall. The
phased student has 4 segments and takes one DDIM step in each.

    python benchmarks/rectified_diffusion2d.py --out benchmarks/out/rectified_diffusion2d.json
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch
from plane import Results, arguments, ends, fit, given, run, trajectory

from flowkit.cond import Cond
from flowkit.couplings import Batch, GivenPairs
from flowkit.fields.predictions import DataPrediction
from flowkit.metrics import curvature, straightness, wasserstein2
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.rectified_diffusion import PhasedRectifiedDiffusion, RectifiedDiffusion
from flowkit.objectives.teacher import Teacher
from flowkit.paths.trigonometric import TrigonometricPath
from flowkit.solvers.ddim import DDIM
from flowkit.solvers.sampler import Sampler
from flowkit.testing import GaussianMixture
from flowkit.times import SegmentGrid, UniformGrid, UniformTimes

LAW = GaussianMixture.ring(components=8, radius=3.0, scale=0.3)
SEGMENTS = 4


def data(n: int, generator: torch.Generator) -> Batch:
    """A batch of the law."""
    return Batch(x1=LAW.sample(n, generator).float())


def judged(objective: FlowMatching, networks: Any, x0: torch.Tensor, real: torch.Tensor) -> Results:
    """W2 at a few steps; S and the variance of the data prediction over 100 DDIM steps."""
    out: Results = {}
    for steps in (1, 2, SEGMENTS, 60):
        phased = isinstance(objective, PhasedRectifiedDiffusion)
        if phased and steps % SEGMENTS:
            continue
        sampler = Sampler(solver=DDIM(), steps=steps, grid=SegmentGrid(SEGMENTS) if phased else UniformGrid())
        with torch.no_grad():
            made = objective.generate(networks, x0, Cond(), sampler=sampler, x0=x0).x
        out[f"wasserstein2_{steps}"] = wasserstein2(made[: len(real)], real)
    field, path = objective.field(networks), objective.path
    assert isinstance(path, TrigonometricPath)
    xs, ts = trajectory(field, x0, DDIM(), 100)
    # t = 1 is left out: there the data prediction is the state.
    out["first_orderness"] = float(curvature(field, path, xs[:-2], ts[:-2], of="data").mean().detach())
    out["straightness"] = straightness(xs, ts).total
    return out


def measure(seed: int, *, steps: int, pairs: int, points: int) -> Results:
    """Teacher, student and phased student."""
    path = TrigonometricPath()
    plain = FlowMatching(path=path, prediction=DataPrediction(), times=UniformTimes(0.0, 0.98))
    teacher = fit(plain, data, steps=steps, seed=seed, lr=5e-3)
    generator = torch.Generator().manual_seed(7000 + seed)
    noise = torch.randn(pairs, 2, generator=generator)
    made = torch.cat([ends(plain.field(teacher), part, DDIM(), 60) for part in noise.split(4096)])
    x0, real = torch.randn(points, 2, generator=generator), LAW.sample(min(points, 2000), generator).float()
    out: Results = {"teacher": judged(plain, teacher, x0, real)}
    student = RectifiedDiffusion(path=path, coupling=GivenPairs())
    networks = fit(student, given(noise, made), steps=steps, seed=500 + seed, lr=2e-3, start=teacher)
    out["student"] = judged(student, networks, x0, real)
    phased = PhasedRectifiedDiffusion(path=path, segments=SEGMENTS)
    phased.teacher = Teacher(plain, teacher, Sampler())
    out["phased"] = judged(phased, fit(phased, data, steps=steps, seed=700 + seed, lr=2e-3, start=teacher), x0, real)
    two = LAW.sample(min(points, 2000), generator).float()
    out["floor"] = {"wasserstein2": wasserstein2(two, real)}
    for name, row in out.items():
        print(seed, name, {key: round(value, 4) for key, value in row.items()}, flush=True)
    return out


def show(runs: Sequence[Results]) -> None:
    """A table and the ratios."""
    keys = ("wasserstein2_1", "wasserstein2_2", "wasserstein2_4", "wasserstein2_60", "first_orderness", "straightness")
    print("| | W2, 1 step | 2 | 4 | 60 | first-orderness | S |\n|---|---|---|---|---|---|---|")
    for name in ("teacher", "student", "phased"):
        cells = [
            f"{statistics.mean(one[name][key] for one in runs):.4g}" if key in runs[0][name] else "" for key in keys
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print(f"| real | {statistics.mean(one['floor']['wasserstein2'] for one in runs):.4g} | | | | | |")
    for one in runs:
        w2, order, s = (one["student"][key] / one["teacher"][key] for key in (keys[0], *keys[4:]))
        ratios = f"W2 at one step {w2:.3f}, first-orderness 1/{1 / order:.1f}, S {s:.2f}"
        print(f"seed {one['seed']}: student over teacher: {ratios}")


def main() -> None:
    parser = arguments(__doc__, "rectified_diffusion2d", steps=3000)
    parser.add_argument("--pairs", type=int, default=30_000)
    parser.add_argument("--points", type=int, default=4000)
    options = parser.parse_args()
    sizes = {"pairs": options.pairs, "points": options.points}
    run(options, lambda seed: measure(seed, steps=options.steps, **sizes), show, **sizes)


if __name__ == "__main__":
    main()
