"""The predictor that ships: it loads by its name, is small, and knows where sprites go."""

from __future__ import annotations

import json

import torch

from domains.video.data.sprites import BouncingSprites
from domains.video.metrics import psnr
from domains.video.pipeline import VideoPredictor
from domains.video.river import scaled
from flowkit.artifacts import pretrained_names
from flowkit.cli.main import main

NAME = "video/river-sprites"


def test_its_folder_is_small_and_has_a_card():
    folder = pretrained_names()[NAME]
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 16 * 2**20
    told = json.loads((folder / "flowkit.json").read_text())
    assert told["licence"]
    assert told["metrics"]
    assert told["limits"]
    card = (folder / "README.md").read_text()
    assert "copying the last frame" in card
    assert "BouncingSprites" in card


def test_it_foresees_the_next_frame_better_than_copying_and_draws_anew_with_another_seed():
    predictor = VideoPredictor.from_pretrained(NAME, steps=4)
    task = predictor.task
    # Another seed than that of the training data.
    source = BouncingSprites(
        frames=predictor.context + 1, size=task.size, sprites=2, colour=True, side=18, speed=[2.0, 4.0], held_out=2,
        seed=2026, validation=8,
    )  # fmt: skip
    clips = source.split("validation").batch(range(8))["frames"]
    made = [predictor(clip[: predictor.context], frames=1, seed=3)[0, 0] for clip in clips]
    true, last = scaled(clips[:, -1]), scaled(clips[:, -2])
    gain = psnr(scaled(torch.stack(made)), true) - psnr(last, true)
    assert float(gain.mean()) > 3.0
    assert not torch.equal(made[0], predictor(clips[0, :-1], frames=1, seed=4)[0, 0])


def test_a_newcomer_needs_no_file(tmp_path, capsys):
    out = tmp_path / "out.mp4"
    short = ["--frames", "1", "--samples", "1", "--steps", "1", "--device", "cpu"]
    assert main(["predict", NAME, "--out", str(out), "--json", *short]) == 0
    assert json.loads(capsys.readouterr().out)["network_calls_per_frame"] == 1
    assert out.stat().st_size > 0
