"""How well frames survive a VQ autoencoder: PSNR, SSIM, use of the codebook, frames a second; the ceiling of RIVER.

The training is that of a recipe, by the library's own trainer, for ``--minutes`` or ``--steps``; what differs from the
recipe is said in its own words (``--task.network.codes 16384``). Measured on the frames of the test split, with the
averaged weights, and saved as a model folder where ``--save`` names one (at most 14 MiB).

    python benchmarks/video_codec.py --minutes 5 --out benchmarks/out/video_codec-sprites.json --save out/codec-sprites
    python benchmarks/video_codec.py --recipe video/codec-street --data.source.file street64.npz --out o.json
    python benchmarks/video_codec.py --frames my.npy --minutes 5 --out o.json
    python benchmarks/video_codec.py --recipe video/smoke/codec-sprites --steps 20 --device cpu --out o.json
    python benchmarks/video_codec.py --merge a.json b.json --out o.json
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: the root of the repository holds the modules
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import flowkit
from domains.video.codec.pipeline import FrameCodec
from domains.video.data.spread import spread_frames
from flowkit import atomic
from flowkit.config.overrides import split_overrides
from flowkit.config.recipe import Recipe, load_recipe
from flowkit.model_card import Card
from flowkit.solvers.sampler import Sampler
from flowkit.train.trainer import Trainer

#: Test frames that are measured; frames at once where speed is; bytes that a saved folder may have.
FRAMES, BATCH, MOST = 2048, 64, 14 * 2**20


def recipe_of(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> Recipe:
    """The recipe with what the command line changes; ``--frames`` takes the place of its data."""
    changes = [("seed", str(args.seed)), ("trainer.device", "cpu" if args.device == "cpu" else "auto")]
    changes += [("trainer.progress", "false"), ("trainer.tensorboard", "false"), ("trainer.sample_every", "0")]
    if args.device == "cpu":
        changes += [("trainer.precision", "fp32")]
    if args.minutes:
        changes += [("trainer.seconds", str(60.0 * args.minutes)), ("trainer.steps", str(10**7))]
    if args.steps:
        changes += [("trainer.steps", str(args.steps))]
    if args.frames:
        size = load_recipe(args.recipe).resolved["task"]["init_args"]["size"]
        clips = {"file": args.frames, "frames": 4, "size": size, "windows": 8, "candidates": 4}
        source = {"class_path": "ArrayClips", "init_args": clips}
        changes += [("data", json.dumps({"class_path": "ResidentClips", "init_args": {"source": source}}))]
    return load_recipe(args.recipe, [*changes, *overrides], trainer=Trainer)


def speed(work: Callable[[], Any], device: torch.device) -> float:
    """Frames a second: the median of ten runs of ``work`` on ``BATCH`` frames, after three more."""
    seconds = []
    for _ in range(13):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return BATCH / sorted(seconds[3:])[5]


def measure(run: Path, data: Any, device: str) -> dict[str, Any]:
    """Quality on the test split and speed, of the run's averaged weights."""
    loaded = flowkit.from_pretrained(run, device=device)
    task: Any = loaded.task
    task.evaluate_frames = FRAMES
    test = data.split("test")
    found = task.evaluate(test, sampler=Sampler())
    codec: FrameCodec = loaded.pipeline()
    frames = spread_frames(test, BATCH)
    frames = frames.repeat(-(-BATCH // len(frames)), 1, 1, 1)[:BATCH].to(task.device)
    latents = codec.encode(frames)
    every = codec.encode(spread_frames(test, 512))
    return {
        **found,
        "encoded_per_second": speed(lambda: codec.encode(frames), task.device),
        "decoded_per_second": speed(lambda: codec.decode(latents), task.device),
        "latent_means": every.mean((0, 2, 3)).cpu().tolist(),
        "latent_stds": every.std((0, 2, 3)).cpu().tolist(),
        "parameters": sum(p.numel() for p in task.network.parameters()),
        "codebook": task.network.codes,
        "latent_shape": list(latents.shape[1:]),
    }


def save(run: Path, folder: Path, data: Any, result: dict[str, Any]) -> int:
    """A model folder of the run; returns its bytes."""
    loaded, about = flowkit.from_pretrained(run), data.statistics()
    channels, height, width = result["measures"]["latent_shape"]
    card = Card(
        title=f"A codec of frames: {about['source']}",
        summary=f"VQ autoencoder: frames of side {about['size']} to latents of {channels} x {height} x {width}",
        data=about["source"],
        licence=about["licence"],
        metrics={name: value for name, value in result["measures"].items() if name in ("psnr", "ssim", "codes_used")},
        split="test",
        limits="It was trained on frames of this kind only, and blurs others.",
    )
    flowkit.save_pretrained(
        folder, loaded.task, recipe=replace(loaded.recipe, name=result["recipe"]), statistics=about, card=card
    )
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MOST:
        print(f"{folder} has {size / 2**20:.1f} MiB, more than {MOST / 2**20:.0f}", flush=True)
    return size


def run_one(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> dict[str, Any]:
    """Train, measure, save."""
    recipe = recipe_of(args, overrides)
    built = recipe.build()
    if args.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("no GPU here: --device cpu")
    device = "cpu" if args.device == "cpu" else "cuda"
    with tempfile.TemporaryDirectory(prefix="codec-") as temporary:
        run = Path(args.run or temporary) / "run"
        summary = built.trainer.fit(
            built.task, built.data, sampler=built.sampler, seed=built.seed, folder=run, recipe_text=recipe.dump()
        )
        result: dict[str, Any] = {
            "benchmark": "video_codec",
            "recipe": args.recipe,
            "changes": [f"{name}={value}" for name, value in overrides],
            "frames": str(built.data.statistics()["source"]),
            "seed": args.seed,
            "steps": summary["steps"],
            "train_seconds": summary["seconds"],
            "train_frames_per_second": summary["samples_seen"] * built.task.frames_per_clip / summary["seconds"],  # pyright: ignore[reportOperatorIssue, reportAttributeAccessIssue]
            "peak_memory_mb": summary["peak_memory_mb"],
            "measures": measure(run, built.data, device),
            "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
            "versions": summary["versions"],
        }
        if args.save:
            result["saved_bytes"] = save(run, Path(args.save), built.data, result)
    return result


def table(results: list[dict[str, Any]]) -> str:
    """One row a result."""
    rows = ["| frames | changes | steps | PSNR | SSIM | codes used | perplexity | frames/s (train, encode, decode) |"]
    rows += ["|---|---|---|---|---|---|---|---|"]
    for result in results:
        m = result["measures"]
        speeds = [result["train_frames_per_second"], m["encoded_per_second"], m["decoded_per_second"]]
        rows.append(
            f"| {result['frames']} | {' '.join(result['changes']) or '-'} | {result['steps']} | {m['psnr']:.2f} | "
            f"{m.get('ssim', float('nan')):.4f} | {m['codes_used']:.3f} of {m['codebook']} | {m['perplexity']:.0f} | "
            f"{', '.join(f'{value:.0f}' for value in speeds)} |"
        )
    return "\n".join(rows)


def main() -> None:
    rest, overrides = split_overrides(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="video/codec-sprites", help="of a FrameAutoencoder")
    parser.add_argument("--frames", help="an .npy or .npz of uint8 frames instead of the recipe's data")
    parser.add_argument("--minutes", type=float, default=0.0, help="of training; the schedule follows them")
    parser.add_argument("--steps", type=int, default=0, help="of training, at most; 0: as the recipe or --minutes say")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", help="folder that keeps the training run")
    parser.add_argument("--save", help="folder for the model")
    parser.add_argument("--merge", nargs="+", help="JSON files of earlier calls to put into one")
    parser.add_argument("--out", required=True, help="JSON file")
    args = parser.parse_args(rest)
    if args.merge:
        results = [result for path in args.merge for result in json.loads(Path(path).read_text())["results"]]
    else:
        results = [run_one(args, overrides)]
    print(table(results))
    atomic.write_json(Path(args.out), {"results": results})


if __name__ == "__main__":
    main()
