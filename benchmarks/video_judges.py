"""The judges of video: train the attribute classifiers, and put all judges to the test.

pack: draw the pushing scene and write the clips that the other verbs read on a machine without MuJoCo.

train: an attribute recipe (sprites, pushing) to its end or for so many minutes; the folder OUT gets the classifier as
it ships (float16, with its card); OUT.json gets the figures. Wanted: at least 0.9 of the sprites' directions.

check: each judge sees clips that get worse by steps: noise of 5, 10, 20 and 40 / 255, blur of 0.5, 1, 2 and 4 pixels,
and 0.1, 0.25, 0.5 and 1 of the frames moved to other times. Wanted: every ladder rises, two sets of real clips are
below a tenth of real against noisy (20 / 255), and clips of the pushing scene that run backwards are further away than
real ones.

    python benchmarks/video_judges.py train --out benchmarks/out/attributes --minutes 6
    python benchmarks/video_judges.py pack --seed 2026 --out pushes.npz
    python benchmarks/video_judges.py train --out benchmarks/out/pushing --recipe video/attributes-pushing --minutes 2 \
        --pushes pushes.npz
    python benchmarks/video_judges.py check --out benchmarks/out/video_judges.json --i3d i3d.safetensors \
        --pips-hed pips-hed.safetensors --attributes benchmarks/out/attributes [--clips clips.npy] \
        --pushes pushes.npz --pushing benchmarks/out/pushing [another judge of pushing ...]
"""

from __future__ import annotations

import argparse
import itertools
import json
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

SPRITES, PUSHING = "video/attributes-sprites", "video/attributes-pushing"
#: Shares of the packed clips.
HELD = {"validation": 0.03, "test": 0.31}
NOISE, BLUR, MOVED = (5.0, 10.0, 20.0, 40.0), (0.5, 1.0, 2.0, 4.0), (0.1, 0.25, 0.5, 1.0)


def machine(device: str) -> dict[str, str]:
    name = platform.processor() or platform.machine()
    return {"machine": name if device == "cpu" else torch.cuda.get_device_name(), "torch": torch.__version__}


# --- pack -------------------------------------------------------------------------------------------------------------


def pack(args: argparse.Namespace) -> None:
    from domains.video.data.push import PushScene, pack_pushes

    counts = dict(zip(("clips", "validation", "test"), args.counts, strict=True))
    with tempfile.TemporaryDirectory(prefix="pushes-") as cache:
        scene = PushScene(frames=16, length=18, **counts, seed=args.seed, workers=args.workers, cache=cache)
        pack_pushes(scene, Path(args.out), length=18)
    print(f"{args.out}: {sum(args.counts)} clips, {Path(args.out).stat().st_size / 1e6:.1f} MB", flush=True)


def packed(file: str) -> Any:
    from domains.video.data.push import PackedPushes

    return PackedPushes(file, frames=16, **HELD)


# --- train ------------------------------------------------------------------------------------------------------------


def card_of(task: Any, made: str, found: Mapping[str, float], *, packed: bool) -> Any:
    """The model card of a judge of sprites or of the pushing scene."""
    from flowkit.model_card import Card

    if "displacement" in task.attributes:
        name, reads, shown = "pushing", "where pucks go, what the rod does", "the pushing scene, 64 x 64"
        known = "one pushing scene: two pucks and a rod at 64 x 64, 16 frames of a tenth of a second"
        data = "Rendered by MuJoCo (PushScene); nothing downloaded. Apache-2.0, as FlowKit."
        if packed:
            data += " Trained on what benchmarks/video_judges.py pack draws; config.yaml names the scene itself."
    else:
        name, reads = "sprites", "which sprites, where to, how fast, whether they bounce"
        shown = "two bouncing sprites, 64 x 64"
        known = "two white sprites of twelve shapes at 64 x 64, 2 to 5 pixels a frame"
        data = "Clips drawn by rule (BouncingSprites); nothing downloaded. Apache-2.0, as FlowKit."
    return Card(
        title=f"attributes-{name}: {reads}, and how clips were made worse",
        summary=f"A judge, not a predictor: its {task.network.width} features give the attribute FVD of {shown}. A "
        f"(2+1)D network, {made} (of the weights in float16).",
        data=data,
        licence="Apache-2.0",
        metrics=dict(found),
        split="test",
        limits=f"Knows this source alone: {known}. Compare values of one checksum and one N only. How its distance "
        "rises with noise, blur and lost order in time is in benchmarks/RESULTS.md.",
    )


def train(args: argparse.Namespace) -> None:
    from domains.video.evaluation.attribute_task import AttributeClassifier
    from domains.video.evaluation.weights import checksum
    from flowkit.artifacts import save_pretrained
    from flowkit.config.recipe import load_recipe
    from flowkit.train.trainer import Trainer

    overrides = [
        ("seed", str(args.seed)),
        ("trainer.seconds", str(60 * args.minutes)),
        ("trainer.tensorboard", "false"),
    ]
    overrides += [("trainer.device", "cpu"), ("trainer.precision", "fp32")] if args.device == "cpu" else []
    overrides += [("trainer.steps", str(args.steps))] if args.steps else []
    overrides += [tuple(item.split("=", 1)) for item in args.set]
    # What ships names the scene, not the file that it was packed into.
    shipped = recipe = load_recipe(args.recipe, overrides, trainer=Trainer)
    if args.pushes:
        source = {"class_path": "PackedPushes", "init_args": {"file": args.pushes, "frames": 16, **HELD}}
        recipe = load_recipe(
            args.recipe, [*overrides, ("data.init_args.source.init_args.clips", json.dumps(source))], trainer=Trainer
        )
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
    made = f"{steps:,} steps of {built.trainer.batch} clips of 16 frames, seed {built.seed}, made by "
    made += f"benchmarks/video_judges.py in {seconds:.0f} s on {machine(args.device)['machine']}. Checksum {digits}"
    card = card_of(built.task, made, found, packed=bool(args.pushes))
    known = {name: value for name, value in built.data.statistics().items() if name not in ("folder", "licence")}
    save_pretrained(args.out, built.task, recipe=shipped, statistics=known, card=card, weights=halved)
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
    row["reversed"] = fvd(feature_set(network, clips.flip(1), batch=args.batch), real).value
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
    return frames_of(samples, count)


def frames_of(samples: Any, count: int) -> Tensor:
    return torch.cat([samples.batch(range(i, min(i + 256, count)))["frames"] for i in range(0, count, 256)])


def check(args: argparse.Namespace) -> None:
    from domains.video.evaluation.attributes import load_attributes
    from domains.video.evaluation.features import load_i3d
    from domains.video.evaluation.pips_hed import load_pips_hed

    sets = {"sprites": sprite_clips(3 * args.count, args.seed)}
    if args.clips:
        sets[Path(args.clips).stem] = torch.from_numpy(np.load(args.clips))
    if args.pushing:
        # Its test split, one clip of each video: neither judge was trained on these.
        samples = packed(args.pushes).split("test")
        sets["pushing"] = frames_of(samples, len(samples))
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
        if name == "pushing":
            judges |= {
                f"attribute_fvd {Path(folder).name}": load_attributes(folder, args.device) for folder in args.pushing
            }
        result[name] = {}
        for judge, network in judges.items():
            result[name][judge] = judged(network, mine, others, args)
            print(name, judge, result[name][judge], flush=True)
            atomic.write_json(Path(args.out), result)
        if args.pips_hed and name != "pushing":
            result[name]["pips_hed"] = pictures(load_pips_hed(args.pips_hed, args.device), mine, args)
            print(name, "pips_hed", result[name]["pips_hed"], flush=True)
    atomic.write_json(Path(args.out), result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    zero = verbs.add_parser("pack")
    zero.add_argument(
        "--counts", type=int, nargs=3, default=[1700, 60, 780], help="clips of 18 frames, by the scene's splits"
    )
    zero.add_argument("--workers", type=int, default=2, help="processes that draw")
    zero.set_defaults(run=pack)
    one = verbs.add_parser("train")
    one.add_argument("--recipe", default=SPRITES, help=f"or {PUSHING}")
    one.add_argument("--pushes", default="", help="packed clips, in the place of the recipe's scene")
    one.add_argument("--minutes", type=float, default=6.0, help="of training, evaluations included")
    one.add_argument("--steps", type=int, default=0, help="instead of the recipe's")
    one.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another value of the recipe")
    one.set_defaults(run=train)
    two = verbs.add_parser("check")
    two.add_argument("--i3d", default="")
    two.add_argument("--pips-hed", default="")
    two.add_argument("--attributes", default="", help="the judge of sprites")
    two.add_argument("--pushing", nargs="*", default=[], help="judges of the pushing scene")
    two.add_argument("--pushes", default="", help="its packed clips")
    two.add_argument(
        "--clips", default="", help="uint8 (n, T, 3, h, w), T at least 9, as .npy: another source to check on"
    )
    two.add_argument("--count", type=int, default=256, help="N of the distances")
    two.add_argument("--batch", type=int, default=32)
    two.set_defaults(run=check)
    for verb in (zero, one, two):
        verb.add_argument("--out", required=True)
        verb.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        verb.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if getattr(args, "pushing", None) and not args.pushes:
        parser.error("--pushing needs --pushes, the clips that pack writes")
    args.run(args)


if __name__ == "__main__":
    main()
