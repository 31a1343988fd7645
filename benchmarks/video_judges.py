"""The judges of video: train the attribute classifier of sprites, and put all judges to the test.

train: the recipe video/attributes-sprites to its end or for so many minutes; the folder OUT gets the classifier as it
ships (float16, with its card); OUT.json gets the figures. Wanted: at least 0.9 of the directions of the test split.

check: each judge sees clips that get worse by steps: noise of 5, 10, 20 and 40 / 255, blur of 0.5, 1, 2 and 4 pixels,
and 0.1, 0.25, 0.5 and 1 of the frames moved to other times. Wanted: every ladder rises, and two sets of real clips are
below a tenth of real against noisy (20 / 255).

    python benchmarks/video_judges.py train --out benchmarks/out/attributes --minutes 6
    python benchmarks/video_judges.py check --out benchmarks/out/video_judges.json --i3d i3d.safetensors \
        --pips-hed pips-hed.safetensors --attributes benchmarks/out/attributes [--clips clips.npy]
"""

from __future__ import annotations

import argparse
import itertools
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flowkit import atomic

RECIPE = "video/attributes-sprites"
NOISE, BLUR, MOVED = (5.0, 10.0, 20.0, 40.0), (0.5, 1.0, 2.0, 4.0), (0.1, 0.25, 0.5, 1.0)


def machine(device: str) -> dict[str, str]:
    name = platform.processor() or platform.machine()
    return {"machine": name if device == "cpu" else torch.cuda.get_device_name(), "torch": torch.__version__}


# --- train ------------------------------------------------------------------------------------------------------------


def train(args: argparse.Namespace) -> None:
    from domains.video.evaluation.attribute_task import AttributeClassifier
    from domains.video.evaluation.weights import checksum
    from flowkit.artifacts import save_pretrained
    from flowkit.config.recipe import load_recipe
    from flowkit.model_card import Card
    from flowkit.train.trainer import Trainer

    overrides = [
        ("seed", str(args.seed)),
        ("trainer.seconds", str(60 * args.minutes)),
        ("trainer.tensorboard", "false"),
    ]
    overrides += [("trainer.device", "cpu"), ("trainer.precision", "fp32")] if args.device == "cpu" else []
    overrides += [("trainer.steps", str(args.steps))] if args.steps else []
    overrides += [tuple(item.split("=", 1)) for item in args.set]
    recipe = load_recipe(args.recipe, overrides, trainer=Trainer)
    built = recipe.build()
    assert isinstance(built.task, AttributeClassifier)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="attributes-") as folder:
        told = built.trainer.fit(
            built.task, built.data, sampler=built.sampler, seed=built.seed, folder=Path(folder) / "run",
            recipe_text=recipe.dump(),
        )  # fmt: skip
    seconds, steps = time.perf_counter() - began, int(told["steps"])
    halved = {name: value.half() for name, value in built.task.state_dict().items()}
    built.task.load_state_dict(halved)  # judged as it ships
    found = built.task.evaluate(built.data.split("test"), sampler=built.sampler, seed=built.seed)
    digits = checksum(built.task.network.state_dict())
    shown = ", ".join(f"{name.removeprefix('accuracy_')} {value:.3f}" for name, value in found.items())
    print(f"{steps} steps, {seconds:.0f} s: {shown}; checksum {digits}", flush=True)
    card = Card(
        title="sprites-attributes: which sprites, where to, how fast, and whether they bounce",
        summary=f"A judge, not a predictor: its 128 features give the attribute FVD of two bouncing sprites, 64 x 64. "
        f"A (2+1)D network, {steps:,} steps of 128 clips of 16 frames, seed {built.seed}, made by "
        f"benchmarks/video_judges.py in {seconds:.0f} s on {machine(args.device)['machine']}. Checksum {digits} "
        "(of the weights in float16).",
        data="Clips drawn by rule (BouncingSprites); nothing downloaded. Apache-2.0, as FlowKit.",
        licence="Apache-2.0",
        metrics=found,
        split="test",
        limits="Knows this source alone: two white sprites of twelve shapes at 64 x 64, 2 to 5 pixels a frame. Compare "
        "values of one checksum and one N only.",
    )
    save_pretrained(args.out, built.task, recipe=recipe, statistics=built.data.statistics(), card=card, weights=halved)
    result = {
        **machine(args.device),
        "steps": steps,
        "seconds": seconds,
        "seed": built.seed,
        "checksum": digits,
        **found,
    }
    # Beside the folder: what is in it ships.
    atomic.write_json(Path(args.out).with_suffix(".json"), result)


# --- check ------------------------------------------------------------------------------------------------------------


def noisy(clips: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    noise = torch.randn(clips.shape, generator=generator) * sigma
    return (clips.float() + noise).round().clamp(0, 255).to(torch.uint8)


def blurred(clips: Tensor, sigma: float, _: torch.Generator) -> Tensor:
    reach = int(3 * sigma + 0.5)
    weight = torch.exp(-torch.arange(-reach, reach + 1).float().square() / (2 * sigma**2))
    weight = weight / weight.sum()
    parts = []
    for part in clips.flatten(0, 2)[:, None].split(4096):
        x = F.pad(part.float(), (reach,) * 4, mode="reflect")
        x = F.conv2d(F.conv2d(x, weight.reshape(1, 1, 1, -1)), weight.reshape(1, 1, -1, 1))
        parts.append(x.round().clamp(0, 255).to(torch.uint8))
    return torch.cat(parts)[:, 0].unflatten(0, clips.shape[:3])


def moved(clips: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """A share of the frames of each clip, permuted among themselves."""
    out = clips.clone()
    for row in range(len(clips)):
        chosen = torch.nonzero(torch.rand(clips.shape[1], generator=generator) < rate)[:, 0]
        out[row, chosen] = clips[row, chosen[torch.randperm(len(chosen), generator=generator)]]
    return out


Ladder = tuple[Callable[[Tensor, float, torch.Generator], Tensor], tuple[float, ...]]
LADDERS: Mapping[str, Ladder] = {"noise": (noisy, NOISE), "blur": (blurred, BLUR), "moved": (moved, MOVED)}


def rising(values: list[float]) -> bool:
    return all(b > a for a, b in itertools.pairwise(values))


def judged(network: Any, clips: Tensor, others: Tensor, args: argparse.Namespace) -> dict[str, Any]:
    """Frechet distances of worsened ``clips`` to ``others``, all at N = len(clips)."""
    from domains.video.evaluation.features import feature_set
    from domains.video.evaluation.fvd import fvd

    began = time.perf_counter()
    real = feature_set(network, others, batch=args.batch)
    plain = fvd(feature_set(network, clips, batch=args.batch), real)
    row: dict[str, Any] = {"N": plain.count, "real": plain.value, "real_deviation": plain.deviation}
    for name, (worsen, levels) in LADDERS.items():
        values = []
        for level in levels:
            generator = torch.Generator().manual_seed(17)
            values.append(fvd(feature_set(network, worsen(clips, level, generator), batch=args.batch), real).value)
        row[name] = values
    row["rises"] = {name: rising([row["real"], *row[name]]) for name in LADDERS}
    row["real_over_noise20"] = row["real"] / row["noise"][2]
    row["seconds"] = time.perf_counter() - began
    return row


def pictures(distance: Any, clips: Tensor, args: argparse.Namespace) -> dict[str, Any]:
    """PIPS-HED, SSIM and PSNR of worsened frames, a mean of each level."""
    from domains.video.metrics import psnr, ssim
    from domains.video.river import scaled

    frames = clips[:64, ::8].to(args.device)
    true = scaled(frames.flatten(0, 1))
    measures = {
        "pips_hed": lambda made: torch.cat(
            [distance(a, b) for a, b in zip(made.split(64), true.split(64), strict=True)]
        ),
        "ssim": lambda made: ssim(made, true),
        "psnr": lambda made: psnr(made, true),
    }
    row: dict[str, Any] = {"equal": float(measures["pips_hed"](true).max())}
    ladders: dict[str, Ladder] = {name: LADDERS[name] for name in ("noise", "blur")}
    ladders["shift"] = (lambda x, by, _: x.roll(int(by), 4), (1, 2, 4, 8))
    for name, (worsen, levels) in ladders.items():
        for level in levels:
            made = scaled(worsen(frames.cpu(), level, torch.Generator().manual_seed(17)).flatten(0, 1).to(args.device))
            for key, measure in measures.items():
                row.setdefault(name, {}).setdefault(key, []).append(float(measure(made).mean()))
    row["rises"] = {name: rising([0.0, *row[name]["pips_hed"]]) for name in ladders}
    return row


def sprite_clips(count: int, seed: int) -> Tensor:
    from domains.video.data.sprites import BouncingSprites

    samples = BouncingSprites(frames=16, size=64, test=count, seed=seed).split("test")
    return torch.cat([samples.batch(range(i, min(i + 256, count)))["frames"] for i in range(0, count, 256)])


def check(args: argparse.Namespace) -> None:
    from domains.video.evaluation.attributes import load_attributes
    from domains.video.evaluation.features import load_i3d
    from domains.video.evaluation.pips_hed import load_pips_hed

    sets = {"sprites": sprite_clips(3 * args.count, args.seed)}
    if args.clips:
        sets[Path(args.clips).stem] = torch.from_numpy(np.load(args.clips))
    result: dict[str, Any] = {**machine(args.device), "seed": args.seed}
    for name, clips in sets.items():
        n = min(len(clips) // 3, args.count)
        clips = clips[torch.randperm(len(clips), generator=torch.Generator().manual_seed(args.seed))]
        mine, others = clips[:n], clips[n : 3 * n]
        judges: dict[str, Any] = {}
        if args.i3d:
            judges["fvd"] = load_i3d(args.i3d, args.device)
        if args.attributes and name == "sprites":
            judges["attribute_fvd"] = load_attributes(args.attributes, args.device)
        result[name] = {}
        for judge, network in judges.items():
            result[name][judge] = judged(network, mine, others, args)
            print(name, judge, result[name][judge], flush=True)
            atomic.write_json(Path(args.out), result)
        if args.pips_hed:
            result[name]["pips_hed"] = pictures(load_pips_hed(args.pips_hed, args.device), mine, args)
            print(name, "pips_hed", result[name]["pips_hed"], flush=True)
    atomic.write_json(Path(args.out), result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    one = verbs.add_parser("train")
    one.add_argument("--recipe", default=RECIPE)
    one.add_argument("--minutes", type=float, default=6.0, help="of training, evaluations included")
    one.add_argument("--steps", type=int, default=0, help="instead of the recipe's")
    one.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another value of the recipe")
    one.set_defaults(run=train)
    two = verbs.add_parser("check")
    two.add_argument("--i3d", default="")
    two.add_argument("--pips-hed", default="")
    two.add_argument("--attributes", default="")
    two.add_argument(
        "--clips", default="", help="uint8 (n, T, 3, h, w), T at least 9, as .npy: another source to check on"
    )
    two.add_argument("--count", type=int, default=256, help="N of the distances")
    two.add_argument("--batch", type=int, default=32)
    two.set_defaults(run=check)
    for verb in (one, two):
        verb.add_argument("--out", required=True)
        verb.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        verb.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
