"""Trained generators for users: ``ImageGenerator.from_pretrained("runs/my-run")(16)``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import UInt8
from torch import Tensor

from flowkit.errors import UserError, nearest
from flowkit.solvers.sampler import Sampler

if TYPE_CHECKING:
    from domains.imaging.task import ImageTask


class ImageGenerator:
    """A trained generator::

        generator = ImageGenerator.from_pretrained("runs/my-run", steps=4)
        pictures = generator(16, label="sandal", seed=0)     # uint8 (16, c, h, w)

    Args:
        task: a trained :class:`ImageTask`.
        sampler: how to solve.
    """

    def __init__(self, task: ImageTask, sampler: Sampler | None = None) -> None:
        self.task, self.sampler = task.eval(), sampler or Sampler()

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, device: str | torch.device = "cpu", steps: int | None = None
    ) -> ImageGenerator:
        """Load a run or a model folder; ``steps`` changes the grid of its sampler.

        Raises:
            UserError: it is no model, or a model of another domain.
        """
        from flowkit.artifacts import from_pretrained

        overrides = [] if steps is None else [("sampler.steps", str(steps)), ("sampler.controller", "null")]
        artifact = from_pretrained(name, device=device, overrides=overrides)
        generator = artifact.task.pipeline(artifact.sampler)
        if not isinstance(generator, cls):
            raise UserError(f"{name} holds a {type(artifact.task).__name__}, which draws no pictures")
        return generator

    def __call__(self, n: int, *, label: str | int | None = None, seed: int = 0) -> UInt8[Tensor, "n c h w"]:
        """``n`` pictures on the CPU, of the class ``label`` (a name or a number) where it is given, else of classes in
        turn.

        Raises:
            UserError: the model knows no such class.
        """
        task = self.task
        labels = None
        if task.classes:
            number = None if label is None else class_number(label, task.class_names, task.classes)
            labels = torch.arange(n) % task.classes if number is None else torch.full((n,), number)
        elif label is not None:
            raise UserError(f"the model was trained without classes: it cannot be asked for {label!r}")
        return task.draw(n, sampler=self.sampler, labels=labels, seed=seed).pictures


def class_number(label: str | int, names: tuple[str, ...], classes: int) -> int:
    """The number of a class given by name or number.

    Raises:
        UserError: there is no such class.
    """
    text = str(label)
    if text in names:
        return names.index(text)
    if text.isdigit() and int(text) < classes:
        return int(text)
    raise UserError(f"no class {text!r}: {nearest(text, names) if names else f'they are 0 to {classes - 1}'}")
