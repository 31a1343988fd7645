"""The generator's part of ``flowkit app``: a grid of pictures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from domains.imaging.pipeline import class_number
from domains.imaging.present import grid
from flowkit.app.controls import Choice, Control, Number, Slider
from flowkit.app.panel import Made, Panel, Show
from flowkit.solvers.sampler import Sampler

_ALL = "all in turn"


class ImagingPanel(Panel):
    """Draws pictures."""

    button = "Draw"
    shows = (Show("pictures", "picture", "Pictures"),)

    def controls(self) -> Sequence[Control]:
        """Number, seed, and the class where there are classes."""
        names = self.task.class_names or tuple(str(i) for i in range(self.task.classes))
        label = Choice(name="label", label="Class", options=(_ALL, *names), value=_ALL)
        number = Slider(name="number", label="Pictures", low=1, high=200, value=40)
        return (number, *((label,) if self.task.classes else ()), Number(name="seed", label="Seed", dice=True))

    def run(self, asked: Mapping[str, Any], sampler: Sampler) -> Made:
        """Draw."""
        task, n, label = self.task, asked["number"], asked.get("label", _ALL)
        labels = None if label == _ALL else torch.full((n,), class_number(label, task.class_names, task.classes))
        began = time.perf_counter()
        drawn = task.draw(n, sampler=sampler, labels=labels, seed=asked["seed"])
        nfe, calls = float(drawn.evaluations.double().mean()), float(drawn.network_calls.double().mean())
        return Made({"pictures": grid(drawn.pictures)}, nfe, calls, "picture", time.perf_counter() - began)
