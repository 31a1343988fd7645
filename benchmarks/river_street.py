"""RIVER on real video: pedestrians of vtest.avi, 64 x 64, 5 known frames and 10 predicted, beside copying the last one.

Trained on frames 0 to 499 of the film, judged on frames 620 to 794. Variants: on the latents of a trained VQ
autoencoder (``codec``; ``codec normalised`` brings its channels to deviation 1 first), and on patches of pixels
(``patch 8``). In each table: the codec's own ceiling (true frames through it), copying the last frame through the
codec, samplers from one Euler step (the conditional mean: the highest PSNR and a blur) on. FVD of clips of 15 frames,
the 5 known ones included: of the first sample, against real clips that were not gone on with (N, 3 resamplings), and
against the true clips ("same clips").

Asked: better than copying the last frame through the same codec, in FVD (one sample) and in PSNR of the best of 10.

    python benchmarks/river_street.py --data vtest.avi --codec runs/codec-street --out benchmarks/out/river_street.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: the root of the repository holds the modules
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from benchmarks.video.frechet import Frechet, joined
from benchmarks.video.training import continued, every_clip, fit, machine
from domains.video.codec.trained import TrainedCodec
from domains.video.data.resident import ResidentSamples
from domains.video.data.street import Pedestrians
from domains.video.metrics import best_of, copy_last, psnr, ssim
from domains.video.models.transformer import RiverTransformer
from domains.video.river import RiverTask, scaled
from flowkit import atomic
from flowkit.data import DataSource, Samples, Split
from flowkit.nn.codec import IdentityCodec, LatentCodec
from flowkit.objectives import FlowMatching
from flowkit.paths import LinearPath
from flowkit.random import RandomSource
from flowkit.solvers.midpoint import Midpoint
from flowkit.solvers.sampler import Sampler

SIZE, CONTEXT, PREDICTED = 64, 5, 10
SAMPLERS = {
    "Euler 1": Sampler(steps=1),
    "Euler 5": Sampler(steps=5),
    "Euler 10": Sampler(steps=10),
    "Euler 19": Sampler(steps=19),
    "Midpoint 5": Sampler(solver=Midpoint(), steps=5),
}


def codec_of(variant: str, args: argparse.Namespace) -> LatentCodec:
    """The codec of a variant's name."""
    if variant.startswith("patch"):
        return IdentityCodec(patch=int(variant.split()[1]))
    return TrainedCodec.from_run(args.codec, normalise="normalised" in variant)


class LatentTask(RiverTask):
    """RIVER's task, which also takes clips that are latents already."""

    def encode(self, frames: Tensor, generator: RandomSource | None = None) -> Tensor:
        """See :class:`RiverTask`; floats are latents."""
        return frames.float() if frames.is_floating_point() else super().encode(frames, generator)

    def adapt(self, data: DataSource) -> None:
        """See :class:`RiverTask`; the codec of latents is adapted already."""
        if isinstance(data, Encoded):
            self.refit(data)
        else:
            super().adapt(data)


class Encoded(DataSource):
    """The training clips of a source as latents, in half precision on the device: each frame is encoded once."""

    def __init__(self, source: DataSource, task: RiverTask, device: str) -> None:
        self.source, self.task, self.device = source, task, device
        self._made: ResidentSamples | None = None

    def prepare(self) -> None:
        """The source's."""
        self.source.prepare()

    def split(self, name: Split) -> Samples:
        """Latents to train on, frames else."""
        samples = self.source.split(name)
        if name != "train":
            return samples
        if self._made is None:
            self._made = self._encoded(samples)
        return self._made

    def _encoded(self, samples: Samples) -> ResidentSamples:
        was = self.task.device
        self.task.to(self.device)
        parts = []
        for first in range(0, len(samples), 64):
            frames = samples.batch(list(range(first, min(first + 64, len(samples)))))["frames"]
            parts.append(self.task.encode(frames.to(self.device)).half())
        self.task.to(was)
        return ResidentSamples(samples, {"frames": torch.cat(parts)})

    def statistics(self) -> Mapping[str, Any]:
        """The source's."""
        return self.source.statistics()


class Clips:
    """The test clips to go on with, and other real ones beside them."""

    def __init__(self, args: argparse.Namespace) -> None:
        # A third is gone on with, the rest is real: no clip twice, all parts of the time in both.
        source = Pedestrians(
            file=args.data, frames=CONTEXT + PREDICTED, size=SIZE, windows=args.windows, candidates=8, validation=0
        )
        source.prepare()
        clips = every_clip(source.split("test"), 10**6)
        chosen = torch.arange(len(clips)) % 3 == 0
        self.clips, real = clips[chosen][: args.tested], clips[~chosen]
        count = min(len(self.clips), len(real) // 2)
        self.known, self.true = self.clips[:, :CONTEXT], scaled(self.clips[:, CONTEXT:])
        self.frechet = Frechet(real, self.clips, count=count, i3d=args.i3d, device=args.device)

    def judged(self, made: Tensor, best: int = 1) -> dict[str, Any]:
        """``made`` (samples, n, PREDICTED, 3, h, w) in [-1, 1]: measures of the first, PSNR and SSIM of the best."""
        curves = torch.stack([psnr(sample, self.true) for sample in made])
        alike = ssim(made[0], self.true)
        row: dict[str, Any] = {
            "psnr": float(curves[0].mean()), "psnr_first": float(curves[0, :, 0].mean()), "ssim": float(alike.mean()),
            "psnr curve": curves[0].mean(0).tolist(),
        }  # fmt: skip
        if best > 1:
            chosen = best_of(curves)
            row |= {
                f"psnr best of {best}": float(chosen.mean()),
                f"psnr best of {best}, curve": chosen.mean(0).tolist(),
            }
        return row | self.frechet(joined(self.known, made[0]))


def through(task: RiverTask, frames: Tensor) -> Tensor:
    """Frames (n, k, c, h, w) in [-1, 1] encoded and decoded, on the CPU."""
    parts = [task.decode(task.codec.encode(part.to(task.device))).cpu() for part in frames.flatten(0, 1).split(1024)]
    return torch.cat(parts).unflatten(0, frames.shape[:2])


def measure(variant: str, clips: Clips, learnt: Pedestrians, args: argparse.Namespace, note: Any) -> None:
    """Train one variant and judge it, row by row."""
    torch.manual_seed(args.seed)
    network: Any = partial(
        RiverTransformer, width=args.width, heads=args.width // 64 or 1, blocks=(3, 4, 3), dropout=0.1
    )
    task = LatentTask(
        network,
        FlowMatching(path=LinearPath(floor=1e-7)),
        size=SIZE, context=CONTEXT, codec=codec_of(variant, args), redraw="step", evaluate_clips=8,
        horizon=args.horizon,
    )  # fmt: skip
    # The statistics of the latents are wanted before they are made.
    task.adapt(learnt)
    training = fit(
        task, Encoded(learnt, task, args.device), steps=args.steps, seconds=60 * args.minutes, batch=args.batch,
        lr=5e-4, seed=args.seed, device=args.device, best=args.best, ema=0.999, validation_batches=8,
    )  # fmt: skip
    task.to(args.device)
    note(f"{variant}: training", {**training, "parameters": sum(p.numel() for p in task.networks.parameters())})
    if not variant.startswith("patch"):
        with torch.no_grad():
            note(f"{variant}: ceiling", clips.judged(through(task, clips.true)[None]))
            last = through(task, scaled(clips.known[:, -1:]))
            note(f"{variant}: copy last", clips.judged(last.expand(-1, PREDICTED, -1, -1, -1)[None]))
    for name in args.samplers.split(","):
        sampler = SAMPLERS[name]
        made, calls = [], 0.0
        number = args.samples if name in ("Euler 10", "Midpoint 5") else 1
        for sample in range(number):
            frames, calls = continued(task, clips.clips, PREDICTED, sampler, seed=sample, batch=512)
            made.append(frames.cpu())
        note(f"{variant}: {name}", {"network_calls": calls, **clips.judged(torch.stack(made), number)})


def judged(rows: dict[str, Any], samples: int) -> dict[str, Any]:
    """What was asked, of each variant with 10 Euler steps (pixels copy without loss)."""
    told: dict[str, Any] = {}
    best = f"psnr best of {samples}"
    for name, row in rows.items():
        variant = name.partition(": ")[0]
        if best not in row:
            continue
        copied = rows.get(f"{variant}: copy last", rows["copy last"])
        told[name] = {"psnr of the best": row[best] > copied["psnr"], "gain, dB": row[best] - copied["psnr"]}
        if "fvd" in row:
            told[name]["fvd"] = row["fvd"]["value"] < copied["fvd"]["value"]
            told[name]["fvd, copy last"] = [row["fvd"]["value"], copied["fvd"]["value"]]
    return told


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write JSON after each row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="vtest.avi, or the array packed from it")
    parser.add_argument("--codec", default="", help="run or folder of a trained autoencoder")
    parser.add_argument("--variants", default="codec,patch 8")
    parser.add_argument("--out", default="benchmarks/out/river_street.json")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--i3d", default="", help="file of I3D's weights")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, default=0.0, help="of one training at most (0: no limit)")
    parser.add_argument(
        "--horizon", type=int, default=0, help="frames known to the network, of which it draws (0: all)"
    )
    parser.add_argument("--samplers", default=",".join(SAMPLERS), help="these rows alone")
    parser.add_argument("--best", type=int, default=1000, help="steps between validations, of which the best is kept")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--windows", type=int, default=64, help="test windows at each of 11 times")
    parser.add_argument("--learnt", type=int, default=8, help="training windows at each time")
    parser.add_argument("--tested", type=int, default=1000, help="clips to go on with, at most")
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    path = Path(args.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    if args.device != "cpu":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    clips = Clips(args)
    rows: dict[str, Any] = {}

    def note(name: str, row: dict[str, Any]) -> None:
        rows[name] = row
        print(f"{time.perf_counter() - began:.0f} s  {name} {json.dumps(row)}", flush=True)
        settings = {key: value for key, value in vars(args).items() if key not in ("out", "data", "codec", "i3d")}
        told = judged(rows, args.samples)
        atomic.write_json(
            path, {"rows": rows, "asked": told, "clips": len(clips.clips), "settings": settings, **machine(args.device)}
        )

    note("copy last", clips.judged(copy_last(scaled(clips.known), PREDICTED)[None]))
    learnt = Pedestrians(
        file=args.data, frames=CONTEXT + PREDICTED, size=SIZE, windows=args.learnt, candidates=4, flips=True
    )
    for variant in args.variants.split(","):
        measure(variant, clips, learnt, args, note)
    print(json.dumps(judged(rows, args.samples), indent=1))


if __name__ == "__main__":
    main()
