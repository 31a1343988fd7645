"""Options of a training that is over at once."""

from __future__ import annotations

FEW = (
    "--trainer.steps", "3", "--trainer.evaluate_every", "0", "--trainer.sample_every", "0",
    "--trainer.checkpoint_every", "0", "--trainer.progress", "false", "--trainer.tensorboard", "false",
    "--device", "cpu",
)  # fmt: skip
