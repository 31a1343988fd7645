"""What does SeqRF buy, and what without the segment told? Eight Gaussians, endpoint error to the teacher's exact end.

Root of the mean square distance to where 100 RK4 steps of the teacher end from the same x0, after 4 Euler steps (one a
segment) and 8 (two a segment). Limits of the card: with the segment told at most 0.65 of the teacher's own error at 4
steps; without it there is no gain.

    python benchmarks/seqrf2d.py --out benchmarks/out/seqrf2d.json
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
from plane import Results, arguments, ends, fit, run

from flowkit.cond import Cond
from flowkit.couplings import Batch
from flowkit.metrics import wasserstein2
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.seq_rf import SeqRF
from flowkit.objectives.teacher import Teacher
from flowkit.solvers.euler import Euler
from flowkit.solvers.rk4 import RK4
from flowkit.solvers.sampler import Sampler
from flowkit.testing import GaussianMixture
from flowkit.times import SegmentGrid

LAW = GaussianMixture.ring(components=8, radius=3.0, scale=0.3)
SEGMENTS = 4
STUDENTS = {"told": True, "not told": False}


def data(n: int, generator: torch.Generator) -> Batch:
    """A batch of the law."""
    return Batch(x1=LAW.sample(n, generator).float())


def measure(seed: int, *, steps: int, points: int) -> Results:
    """Errors of the teacher and of both students."""
    plain = FlowMatching()
    teacher = fit(plain, data, steps=steps, seed=seed, lr=5e-3)
    generator = torch.Generator().manual_seed(7000 + seed)
    x0 = torch.randn(points, 2, generator=generator)
    real = LAW.sample(min(points, 2000), generator).float()
    exact = ends(plain.field(teacher), x0, RK4(), 100)
    out: Results = {"exact": {"wasserstein2": wasserstein2(exact[: len(real)], real)}}
    samplers = {n: Sampler(solver=Euler(), steps=n, grid=SegmentGrid(SEGMENTS)) for n in (SEGMENTS, 2 * SEGMENTS)}
    flows = {"teacher": (plain, teacher)}
    for name, told in STUDENTS.items():
        student = SeqRF(segments=SEGMENTS, segment_input=told)
        student.teacher = Teacher(plain, teacher, Sampler())
        flows[name] = (student, fit(student, data, steps=steps, seed=500 + seed, lr=1.25e-3, start=teacher))
    for name, (objective, networks) in flows.items():
        out[name] = {}
        for n, sampler in samplers.items():
            with torch.no_grad():
                made = objective.generate(networks, x0, Cond(), sampler=sampler, x0=x0).x
            out[name][f"error_{n}"] = float((made - exact).square().sum(1).mean().sqrt())
            out[name][f"wasserstein2_{n}"] = wasserstein2(made[: len(real)], real)
        print(seed, name, {key: round(value, 4) for key, value in out[name].items()}, flush=True)
    return out


def show(runs: Sequence[Results]) -> None:
    """A table."""
    print("| | error, 4 steps | over the teacher's | 8 steps | over the teacher's | W2, 4 steps | 8 steps |")
    print("|---|---|---|---|---|---|---|")
    for name in ("teacher", *STUDENTS):
        cells = []
        for n in (SEGMENTS, 2 * SEGMENTS):
            errors = [one[name][f"error_{n}"] for one in runs]
            ratios = [one[name][f"error_{n}"] / one["teacher"][f"error_{n}"] for one in runs]
            cells += [f"{statistics.mean(errors):.3f}", f"{statistics.mean(ratios):.3f} (worst {max(ratios):.3f})"]
        cells += [
            f"{statistics.mean(one[name][f'wasserstein2_{n}'] for one in runs):.3f}" for n in (SEGMENTS, 2 * SEGMENTS)
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = arguments(__doc__, "seqrf2d", steps=3000)
    parser.add_argument("--points", type=int, default=4000)
    options = parser.parse_args()
    run(options, lambda seed: measure(seed, steps=options.steps, points=options.points), show, points=options.points)


if __name__ == "__main__":
    main()
