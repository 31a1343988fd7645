"""A small autoencoder of small sprites, trained for seconds."""

from __future__ import annotations

from pathlib import Path

import torch

from domains.video.codec.autoencoder import VQAutoencoder
from domains.video.codec.task import FrameAutoencoder
from domains.video.data.sprites import BouncingSprites
from flowkit.cli.main import main

RECIPE = "video/smoke/codec-sprites"
SIZES = {"channels": [8, 16, 16], "depth": 1, "latent": 4, "codes": 64}


def source(**options) -> BouncingSprites:
    return BouncingSprites(**{"frames": 4, "size": 16, "sprites": 1, "clips": 64, "validation": 6, "test": 6} | options)


def task(network: dict | None = None, **options) -> FrameAutoencoder:
    torch.manual_seed(0)
    made = FrameAutoencoder(VQAutoencoder(**SIZES | (network or {})), **{"size": 16} | options)
    made.adapt(source())
    return made


def train(recipe: str | Path, folder: Path, *options: str) -> int:
    quiet = ["--device", "cpu", "--trainer.progress", "false", "--trainer.tensorboard", "false"]
    return main(["train", str(recipe), "--out", str(folder), *quiet, *options])


def few(steps: int) -> list[str]:
    named = {"steps": steps, "evaluate_every": 0, "sample_every": 0, "checkpoint_every": 0}
    return [text for name, value in named.items() for text in (f"--trainer.{name}", str(value))]
