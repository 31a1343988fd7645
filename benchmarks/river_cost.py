"""What a predicted frame costs: FVD against network calls, the published sampling loop beside better solvers and grids.

One trained model of sprites (``video/river-sprites``), clips of 16 frames, 5 known and 11 predicted. The official code
integrates each frame by the 3/8 rule of Runge and Kutta on linspace(0, 1, 100), the past frame drawn anew at each of
the 396 calls. Ours: other solvers, fewer steps, other grids, other dials. Reported: FVD and attribute FVD against real
clips that were not gone on with (N, deviation of 3 resamplings, real against real), PSNR, network calls and
milliseconds a frame at batch 1 and 16.

Asked: at most 19 calls (20 times fewer than 396) at no worse FVD.

    python benchmarks/river_cost.py --run runs/river-sprites --i3d i3d.safetensors
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: the root of the repository holds the modules
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.video.frechet import Frechet, joined
from benchmarks.video.training import continued, dialled, every_clip, machine, wait
from domains.video.data.resident import ResidentClips
from domains.video.data.sprites import BouncingSprites
from domains.video.metrics import copy_last, psnr
from domains.video.river import RiverTask, scaled
from flowkit import atomic
from flowkit.artifacts import from_pretrained
from flowkit.solvers.heun import Heun
from flowkit.solvers.midpoint import Midpoint
from flowkit.solvers.rk4 import RK4
from flowkit.solvers.rk4_three_eighths import RK4ThreeEighths
from flowkit.solvers.sampler import Sampler
from flowkit.times.grids import ShiftedGrid, SigmoidGrid

FRAMES, CONTEXT, OFFICIAL = 16, 5, "official: 3/8 rule, 100 points"
#: Twenty times fewer calls than the official loop's 396.
FEW = 19

Row = tuple[Sampler, dict[str, Any]]


def samplers() -> dict[str, Row]:
    """Name -> sampler and dials; the official loop first."""
    rows: dict[str, Row] = {OFFICIAL: (Sampler(solver=RK4ThreeEighths(), steps=99), {"redraw": "call"})}
    for n in (1, 2, 3, 5, 8, 10, 15, 19):
        rows[f"Euler {n}"] = (Sampler(steps=n), {})
    for solver, counts in ((Midpoint(), (1, 2, 4, 5, 9)), (Heun(), (2, 5, 9)), (RK4(), (1, 2, 4))):
        for n in counts:
            rows[f"{type(solver).__name__} {n}"] = (Sampler(solver=solver, steps=n), {"redraw": "step"})
    grids = {
        "shift 3": ShiftedGrid(3.0), "shift 1/2": ShiftedGrid(0.5), "shift 1/3": ShiftedGrid(1 / 3),
        "sigmoid": SigmoidGrid(),
    }  # fmt: skip
    for name, grid in grids.items():
        rows[f"Euler 10, {name}"] = (Sampler(steps=10, grid=grid), {})
        rows[f"Midpoint 5, {name}"] = (Sampler(solver=Midpoint(), steps=5, grid=grid), {"redraw": "step"})
    rows["Euler 5, shift 1/2"] = (Sampler(steps=5, grid=ShiftedGrid(0.5)), {})
    rows["Euler 10, redrawn once"] = (Sampler(steps=10), {"redraw": "once"})
    rows["Midpoint 5, redrawn per call"] = (Sampler(solver=Midpoint(), steps=5), {"redraw": "call"})
    rows["Midpoint 5, redrawn once"] = (Sampler(solver=Midpoint(), steps=5), {"redraw": "once"})
    for strength in (0.1, 0.3):
        rows[f"Euler 5, strength {strength:g}"] = (Sampler(steps=5), {"strength": strength})
        rows[f"Euler 10, strength {strength:g}"] = (Sampler(steps=10), {"strength": strength})
    return rows


@torch.no_grad()
def milliseconds(task: RiverTask, context: torch.Tensor, sampler: Sampler, device: str) -> float:
    """Of a frame, all clips of ``context`` at once; the median of some frames after a warm-up."""
    rollout = task.roll(context.to(task.device), sampler=sampler)
    times = []
    slow = sampler.steps > 50
    for _ in range(3 if slow else 8):
        wait(device)
        began = time.perf_counter()
        list(islice(rollout, 1))
        wait(device)
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times[1:])


class Measurement:
    """The clips, their features, and a row for each sampler."""

    def __init__(self, args: argparse.Namespace, data: Any) -> None:
        self.device, self.seed = args.device, args.seed
        trained: Any = data.source if isinstance(data, ResidentClips) else data
        motion: Any = trained.motion
        source = BouncingSprites(
            frames=FRAMES, size=trained.size, sprites=trained.sprites, motion=motion, colour=trained.colour,
            held_out=trained.held_out, side=trained.side, speed=trained.speed, validation=args.clips + 2 * args.count,
        )  # fmt: skip
        clips = every_clip(source.split("validation"), args.clips + 2 * args.count)
        self.clips, real = clips[: args.clips], clips[args.clips :]
        self.frechet = Frechet(
            real, self.clips, count=args.count, i3d=args.i3d, attributes=args.attributes, device=args.device
        )
        self.known, self.true = self.clips[:, :CONTEXT], scaled(self.clips[:, CONTEXT:])

    def row(self, task: RiverTask, sampler: Sampler, dials: dict[str, Any]) -> dict[str, Any]:
        """Quality and cost."""
        with dialled(task, **dials):
            began = time.perf_counter()
            made, calls = continued(
                task, self.clips, FRAMES - CONTEXT, sampler, context=CONTEXT, seed=self.seed, batch=1024
            )
            wait(self.device)
            seconds = time.perf_counter() - began
            timed = {
                f"ms a frame, batch {b}": milliseconds(task, self.known[:b], sampler, self.device) for b in (1, 16)
            }
        return {"network_calls": calls, **timed, "seconds": seconds, **self.judged(made)}

    def judged(self, made: torch.Tensor) -> dict[str, Any]:
        """Quality alone."""
        curve = psnr(made.cpu(), self.true)
        curve = curve.where(curve.isfinite(), curve.new_tensor(99.0)).mean(0)
        return {"psnr_first": float(curve[0]), "psnr": float(curve.mean()), **self.frechet(joined(self.known, made))}


def judged(rows: dict[str, Any]) -> dict[str, Any]:
    """What was asked."""
    told: dict[str, Any] = {}
    for name in ("fvd", "attribute_fvd"):
        if name not in rows.get(OFFICIAL, {}):
            continue
        mark = rows[OFFICIAL][name]
        few = {
            key: row[name]["value"]
            for key, row in rows.items()
            if 0 < row.get("network_calls", 0) <= FEW and name in row
        }
        good = [key for key, value in few.items() if value <= mark["value"]]
        close = [key for key, value in few.items() if value <= mark["value"] + 2 * mark["deviation"]]
        cheapest = min(close, key=lambda key: rows[key]["network_calls"], default=None)
        told[name] = {"official": mark, "no worse": good, "within two deviations": close, "cheapest of these": cheapest}
    return told


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write JSON after each row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="video/river-sprites", help="a trained model")
    parser.add_argument("--rectified", default="", metavar="RUN", help="a rectified student of it: few Euler steps")
    parser.add_argument("--out", default="benchmarks/out/river_cost.json")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--i3d", default="", help="file of I3D's weights")
    parser.add_argument("--attributes", default="", help="a trained attribute classifier")
    parser.add_argument("--clips", type=int, default=1024, help="clips to go on with")
    parser.add_argument("--count", type=int, default=512, help="N of a distance")
    parser.add_argument("--minutes", type=float, default=0.0, help="begin no row later than this (0: no limit)")
    parser.add_argument("--only", default="", help="only the rows whose names hold one of these words, by commas")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    path = Path(args.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    if args.device != "cpu":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    artifact = from_pretrained(args.run, device=args.device, with_data=True)
    task: Any = artifact.task
    measurement = Measurement(args, artifact.data)
    rows: dict[str, Any] = {}

    def note(name: str, row: dict[str, Any]) -> None:
        rows[name] = row
        print(name, json.dumps(row), flush=True)
        settings = {key: value for key, value in vars(args).items() if key not in ("out", "run", "i3d", "attributes")}
        atomic.write_json(path, {"rows": rows, "asked": judged(rows), "settings": settings, **machine(args.device)})

    note("copy last", measurement.judged(copy_last(scaled(measurement.known), FRAMES - CONTEXT)))
    todo = [(name, task, row) for name, row in samplers().items()]
    if args.rectified:
        student: Any = from_pretrained(args.rectified, device=args.device).task
        todo[1:1] = [(f"rectified, Euler {n}", student, (Sampler(steps=n), {})) for n in (1, 2, 3, 5, 10)]
    for name, model, (sampler, dials) in todo:
        if args.only and not any(word in name for word in args.only.split(",")):
            continue
        if 0 < args.minutes < (time.perf_counter() - began) / 60:
            print("out of time", flush=True)
            break
        note(name, measurement.row(model, sampler, dials))
    print(json.dumps(judged(rows), indent=1))


if __name__ == "__main__":
    main()
