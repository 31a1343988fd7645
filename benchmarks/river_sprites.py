"""RIVER on two bouncing sprites of 32 x 32 pixels (acceptance 3 of its card), and its sparse past against all of it.

Sprites of 14 pixels at 1 to 3 pixels a frame, reflected at the walls, in clips of 7 frames, 5 known; 5000 steps of 256
clips, the same network (RiverTransformer, width 256, 7 blocks, 8 x 8 tokens), 512 test clips, PSNR at 10 Euler steps.
Trained by the library's trainer: bf16, CUDA graphs, clips resident on the GPU. Variants:

- ``both``: the reference and a random past frame, RIVER; ``horizon 2`` and ``horizon 3``: only the last 2 or 3 known;
- ``blind``: the reference alone; ``copy last``;
- ``all past``: the same blocks over the tokens of all known frames at once, so that a call costs more the longer the
  past is.

Asked: ``both`` at least 4 dB above ``blind`` in predicted frame 1 and 3 dB in frame 2; and the best sparse variant
within 0.5 dB of ``all past`` (mean over the 2 predicted frames) at its share of the floating-point operations a frame
(the card names no margin: this one is ours).

    python benchmarks/river_sprites.py --seed 0 --variants both,blind --out benchmarks/out/river_sprites-0.json
    python benchmarks/river_sprites.py --merge a.json b.json --out benchmarks/out/river_sprites.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: the root of the repository holds the modules
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.video.all_past import AllPastTask, AllPastTransformer, BlindTransformer
from benchmarks.video.training import continued, dialled, every_clip, fit, machine, wait
from domains.video.data.resident import ResidentClips
from domains.video.data.sprites import BouncingSprites
from domains.video.metrics import copy_last, psnr
from domains.video.models.transformer import RiverTransformer
from domains.video.river import RiverTask, scaled
from flowkit import atomic
from flowkit.nn.codec import IdentityCodec
from flowkit.objectives import FlowMatching
from flowkit.paths import LinearPath
from flowkit.solvers.sampler import Sampler

SIZE, FRAMES, CONTEXT, TESTED, MARGIN = 32, 7, 5, 512, 0.5
VARIANTS = ("both", "blind", "horizon 2", "horizon 3", "all past")


def build(variant: str, *, width: int, seed: int) -> RiverTask:
    """An untrained task."""
    torch.manual_seed(seed)
    network = {"blind": BlindTransformer, "all past": AllPastTransformer}.get(variant, RiverTransformer)
    horizon = int(variant.split()[1]) if variant.startswith("horizon") else 0
    return (AllPastTask if variant == "all past" else RiverTask)(
        partial(network, width=width, heads=4, blocks=(2, 3, 2)),
        FlowMatching(path=LinearPath(floor=1e-7)),
        size=SIZE, context=CONTEXT, codec=IdentityCodec(patch=4), horizon=horizon,
    )  # fmt: skip


def sprites(motion: Any) -> BouncingSprites:
    """The data."""
    return BouncingSprites(frames=FRAMES, size=SIZE, speed=[1.0, 3.0], motion=motion, test=TESTED, validation=16)


def curve(task: RiverTask, clips: torch.Tensor, sampler: Sampler) -> list[float]:
    """PSNR of each predicted frame, dB."""
    made, _ = continued(task, clips, FRAMES - CONTEXT, sampler)
    return psnr(made.cpu(), scaled(clips[:, CONTEXT:])).mean(0).tolist()


@torch.no_grad()
def cost(task: RiverTask, known: int, *, batch: int, device: str) -> dict[str, float]:
    """Floating-point operations of one network call, and milliseconds of a frame at 10 Euler steps, with ``known``
    frames known; medians of 5."""
    context = torch.zeros(batch, known, 3, SIZE, SIZE, dtype=torch.uint8, device=device)

    def rollout(steps: int) -> Any:
        # The cost of a long past is asked for, so nothing is forgotten.
        with dialled(task, horizon=known + 1):
            return task.roll(context, sampler=Sampler(steps=steps))

    with FlopCounterMode(display=False) as counter:
        next(iter(rollout(1)))
    times = []
    for _ in range(6):
        run = rollout(10)
        wait(device)
        began = time.perf_counter()
        list(islice(run, 1))
        wait(device)
        times.append(time.perf_counter() - began)
    return {"gflop_a_call": counter.get_total_flops() / batch / 1e9, "ms_a_frame": 1e3 * statistics.median(times[1:])}


def measure(variant: str, data: ResidentClips, clips: torch.Tensor, args: argparse.Namespace) -> dict[str, Any]:
    """Train and judge one variant."""
    task = build(variant, width=args.width, seed=args.seed)
    training = fit(
        task, data, steps=args.steps, seconds=60 * args.minutes, batch=args.batch, lr=args.lr, seed=args.seed,
        device=args.device,
    )  # fmt: skip
    task.to(args.device)
    found: dict[str, Any] = {
        "training": training,
        "parameters": sum(p.numel() for p in task.parameters()),
        "psnr": curve(task, clips, Sampler(steps=10)),
        "psnr by steps": {n: curve(task, clips, Sampler(steps=n)) for n in (1, 2, 5, 20)},
    }
    if variant in ("both", "horizon 3"):
        for how in ("step", "once"):
            with dialled(task, redraw=how):
                found[f"psnr, redrawn per {how}"] = curve(task, clips, Sampler(steps=10))
    if variant in ("both", "all past"):
        found["cost"] = {
            known: {f"batch {b}": cost(task, known, batch=b, device=args.device) for b in (1, 16)}
            for known in map(int, args.known.split(","))
        }
    return found


def judged(rows: dict[str, Any]) -> dict[str, Any]:
    """What was asked, from the mean curves of each variant."""
    told: dict[str, Any] = {}
    if {"both", "blind"} <= rows.keys():
        gain = [a - b for a, b in zip(rows["both"]["psnr"], rows["blind"]["psnr"], strict=True)]
        told["gain over blind, dB"] = gain
        told["frame 1 by 4 dB"], told["frame 2 by 3 dB"] = gain[0] >= 4, gain[1] >= 3
    sparse = [name for name in ("both", "horizon 2", "horizon 3") if name in rows]
    if sparse and "all past" in rows:
        means = {name: statistics.mean(rows[name]["psnr"]) for name in [*sparse, "all past"]}
        best = max(sparse, key=means.__getitem__)
        told["mean PSNR"], told["best sparse"] = means, best
        told["sparse within the margin"] = means[best] >= means["all past"] - MARGIN
    return told


def merged(paths: list[str]) -> dict[str, Any]:
    """Means and ranges over the files of several seeds."""
    files = [json.loads(Path(path).read_text()) for path in paths]
    rows: dict[str, Any] = {}
    for name in (*VARIANTS, "copy last"):
        curves = [file["variants"][name]["psnr"] for file in files if name in file["variants"]]
        if curves:
            columns = list(zip(*curves, strict=True))
            rows[name] = {
                "seeds": len(curves),
                "psnr": [statistics.mean(column) for column in columns],
                "least": [min(column) for column in columns],
                "most": [max(column) for column in columns],
            }
    return {"variants": rows, "asked": judged(rows), "files": files}


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write JSON after each variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="benchmarks/out/river_sprites.json")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--motion", default="deterministic", choices=("stochastic", "deterministic"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--minutes", type=float, default=0.0, help="of one training at most (0: no limit)")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--clips", type=int, default=60_000)
    parser.add_argument("--known", default="5,10,20,40", help="known frames at which the cost of the next is measured")
    parser.add_argument("--tested", type=int, default=TESTED)
    parser.add_argument("--merge", nargs="+", metavar="JSON", help="only join the files of several seeds")
    args = parser.parse_args(argv)
    path = Path(args.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    if args.merge:
        found = merged(args.merge)
        atomic.write_json(path, found)
        print(json.dumps({"variants": found["variants"], "asked": found["asked"]}, indent=1))
        return
    source = sprites(args.motion)
    data = ResidentClips(source, clips=args.clips, device="cpu" if args.device == "cpu" else "auto")
    clips = every_clip(source.split("test"), args.tested)
    copied = psnr(copy_last(scaled(clips[:, :CONTEXT]), FRAMES - CONTEXT), scaled(clips[:, CONTEXT:]))
    rows: dict[str, Any] = {"copy last": {"psnr": copied.mean(0).tolist()}}
    for variant in args.variants.split(","):
        rows[variant] = measure(variant, data, clips, args)
        print(variant, [f"{value:.2f}" for value in rows[variant]["psnr"]], rows[variant]["training"], flush=True)
        settings = {name: value for name, value in vars(args).items() if name not in ("out", "merge")}
        atomic.write_json(path, {"variants": rows, "settings": settings, **machine(args.device)})
    print(judged(rows))


if __name__ == "__main__":
    main()
