"""A thousand frames without a pause: does memory stay flat, does the picture stay in range, and how does it drift?

One trained model of sprites goes on with 5 known frames of some clips for ``--frames`` frames. Reported at marks:
seconds a frame, memory (of the GPU: allocated and its peak since the last mark; of the process), mean and deviation of
the latent and of the pixels, share of pixels beyond [-1, 1], the white mass (mean brightness above black, over that of
the true clips) and its spread over clips, connected bright parts a frame. A strip of frames goes into an NPZ file.

    python benchmarks/river_rollout.py --run video/river-sprites --out benchmarks/out/river_rollout.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: the root of the repository holds the modules
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor

from benchmarks.video.training import every_clip, machine, wait
from domains.video.data.resident import ResidentClips
from domains.video.river import pixels, scaled
from flowkit import atomic
from flowkit.artifacts import from_pretrained
from flowkit.random import Rows, mix_seed

MARKS = (1, 2, 5, 10, 20, 50, 100, 200, 300, 500, 700, 1000, 2000)
SHOWN = (1, 10, 100, 1000)


def resident_mb() -> float:
    """Memory of the process now, MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def bright_parts(frames: Tensor) -> float:
    """Connected parts above the middle grey, a frame: two sprites make one or two."""
    from scipy.ndimage import label

    bright = (frames.amax(1) > 0).cpu().numpy()
    counts: list[Any] = [label(frame) for frame in bright]
    return float(np.mean([count[1] for count in counts]))


def looks(frames: Tensor) -> dict[str, float]:
    """Numbers of frames (n, c, h, w) in [-1, 1]."""
    mass = (frames.amax(1) + 1).mean((1, 2)) / 2
    return {
        "mean": float(frames.mean()), "deviation": float(frames.std()), "mass": float(mass.mean()),
        "mass deviation": float(mass.std()), "bright parts": bright_parts(frames),
    }  # fmt: skip


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    """Measure, print, write JSON and NPZ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="video/river-sprites")
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--steps", type=int, default=0, help="of the sampler instead of the run's")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="benchmarks/out/river_rollout.json")
    args = parser.parse_args(argv)
    path = Path(args.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    overrides = [("sampler.steps", str(args.steps))] if args.steps else []
    artifact = from_pretrained(args.run, device=args.device, overrides=overrides, with_data=True)
    task: Any = artifact.task
    data: Any = artifact.data
    source = data.source if isinstance(data, ResidentClips) else data
    source.prepare()
    clips = every_clip(source.split("validation"), max(args.clips, 256))
    found: dict[str, Any] = {"true clips": looks(scaled(clips[:256, task.context])), "marks": {}}
    on_gpu = args.device != "cpu"

    def noise(frame: int) -> Rows:
        return Rows(mix_seed(args.seed, 0x1000, frame), total=args.clips)

    rollout = task.roll(clips[: args.clips, : task.context].to(args.device), sampler=artifact.sampler, noise=noise)
    shown: dict[str, np.ndarray] = {}
    began, last = time.perf_counter(), 0
    for number, solution in enumerate(islice(rollout, args.frames), 1):
        if number not in MARKS and number not in SHOWN:
            continue
        wait(args.device)
        seconds = (time.perf_counter() - began) / (number - last)
        raw = task.codec.decode(solution.x)
        frames = raw.clamp(-1, 1)
        row: dict[str, Any] = {
            "ms a frame": 1e3 * seconds, "known frames kept": rollout.kept, "process MiB": resident_mb(),
            "not finite": int((~raw.isfinite()).sum()), "latent mean": float(solution.x.mean()),
            "latent deviation": float(solution.x.std()), "beyond range": float((raw.abs() > 1.05).float().mean()),
            **looks(frames),
        }  # fmt: skip
        if on_gpu:
            row["GPU MiB"] = torch.cuda.memory_allocated() / 2**20
            row["GPU peak MiB"] = torch.cuda.max_memory_allocated() / 2**20
        found["marks"][number] = row
        print(number, json.dumps(row), flush=True)
        if number in SHOWN:
            shown[f"frame{number}"] = pixels(frames[:8]).cpu().numpy()
        atomic.write_json(path, found | {"clips": args.clips, **machine(args.device)})
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        began, last = time.perf_counter(), number
    np.savez_compressed(path.with_suffix(".npz"), known=clips[:8, : task.context].numpy(), **shown)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    main()
