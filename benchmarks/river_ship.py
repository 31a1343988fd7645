"""Makes the predictor that ships: judges a trained run on held-out clips and writes its folder, in half precision.

flowkit train video/river-sprites-small --out runs/small
python benchmarks/river_ship.py --run runs/small --out domains/video/pretrained/river-sprites
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: the root of the repository holds the modules
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from domains.video.data.resident import ResidentClips
from domains.video.judge import judge
from flowkit.artifacts import from_pretrained, save_pretrained
from flowkit.model_card import Card

#: Measures of :func:`domains.video.judge.judge` -> what the card calls them.
NAMES = {
    "psnr_first": "PSNR of predicted frame 1, dB",
    "psnr_copy_first": "the same, copying the last frame",
    "psnr": "PSNR of one sample, mean over 15 frames, dB",
    "psnr_best": "PSNR of the best of 5 samples, dB",
    "psnr_copy": "PSNR of copying the last frame, dB",
    "ssim": "SSIM of one sample",
    "ssim_best": "SSIM of the best of 5 samples",
    "ssim_copy": "SSIM of copying the last frame",
}
LIMITS = (
    "Two sprites on black, 64 x 64, as drawn by BouncingSprites; other videos are continued into such sprites. A new "
    "direction after a wall is drawn at random, so long predictions differ from the truth and sprites change their "
    "shape, above all where they meet, from about the tenth predicted frame on."
)


def main(argv: list[str] | None = None) -> None:
    """Judge, print, write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="of the recipe video/river-sprites-small")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--clips", type=int, default=256, help="of each split to judge by")
    parser.add_argument("--steps", type=int, default=0, help="of the sampler instead of the run's")
    parser.add_argument("--trained", default="", help="a sentence on the training: steps, seconds, machine")
    args = parser.parse_args(argv)
    artifact = from_pretrained(args.run, device=args.device, with_data=True)
    task: Any = artifact.task
    data = artifact.data
    assert data is not None
    data.prepare()
    task.evaluate_clips, task.evaluate_samples = args.clips, 5
    sampler = replace(artifact.sampler, steps=args.steps or artifact.sampler.steps)
    splits = {"unseen clips of the shapes seen": "validation", "clips of two shapes never seen": "test"}
    metrics: dict[str, float] = {}
    calls = 0.0
    for words, name in splits.items():
        found = judge(task, data.split(name), sampler=sampler, seed=0)  # pyright: ignore[reportArgumentType]
        calls = found["network_calls"]
        metrics |= {f"{words}: {text}": found[key] for key, text in NAMES.items() if key in found}
        print(name, found, flush=True)
    source = data.source if isinstance(data, ResidentClips) else data
    card = Card(
        title="river-sprites: two bouncing sprites, predicted frame by frame",
        summary="Goes on with a video of two coloured sprites that bounce in a dark box, 64 x 64, from 5 known frames, "
        "without end and at a constant cost a frame: RIVER (arXiv 2211.14575) on patches of pixels. For trying "
        f"`flowkit predict` and for tests of samplers. {args.trained}".strip(),
        data=f"FlowKit's own {type(source).__name__}, drawn by rule; nothing was recorded or downloaded.",
        licence="Apache-2.0",
        metrics=metrics,
        split=f"{args.clips} clips each, 5 frames known, 15 predicted, {type(sampler.solver).__name__} {sampler.steps}",
        nfe=calls,
        limits=LIMITS,
    )
    # Vectors and tables stay as they are: they are small.
    halved = {
        key: value.half() if value.ndim > 1 and value.is_floating_point() else value
        for key, value in task.cpu().state_dict().items()
    }
    # Where it was trained further, the folder that this began with is nobody's business.
    resolved = {key: value for key, value in artifact.recipe.resolved.items() if key != "finetune"}
    recipe = replace(artifact.recipe, name="video/river-sprites-small", resolved=resolved)
    folder = save_pretrained(args.out, task, recipe=recipe, statistics=data.statistics(), card=card, weights=halved)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size / 2**20:.1f} MiB", flush=True)


if __name__ == "__main__":
    main()
