"""The panel of every domain without one of its own: samples, shown as the domain presents them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from flowkit.app.controls import Control, Number, Slider, TextLine
from flowkit.app.panel import Made, Panel
from flowkit.artifacts import Artifact
from flowkit.config import plugins
from flowkit.config.yamlfile import parse_yaml
from flowkit.errors import UserError
from flowkit.objectives.own_loss import OwnLoss
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.solver import Solution
from flowkit.tasks import Task


class SamplesPanel(Panel):
    """What ``flowkit sample`` writes, on the page."""

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        self.sampled = not isinstance(self.task.objective, OwnLoss)

    def controls(self) -> Sequence[Control]:
        """Number, seed, and what only the domain understands."""
        return (
            Slider(name="number", label="Samples", low=1, high=200, value=16),
            Number(name="seed", label="Seed", dice=True),
            TextLine(
                name="request", label="Request", more=True, lines=2,
                info="as flowkit sample --request: KEY: VALUE, a line each (a label, a text); may be empty",
            ),
        )  # fmt: skip

    def run(self, asked: Mapping[str, Any], sampler: Sampler) -> Made:
        """Sample, and count what the objective solved meanwhile."""
        request = parse_yaml(asked["request"] or "{}", "Request")
        if not isinstance(request, dict):
            raise UserError("Request: expected KEY: VALUE, a line each")
        began = time.perf_counter()
        with solved(self.task) as solutions:
            shown = self.task.sample(asked["number"], sampler=sampler, seed=asked["seed"], request=request or None)
        seconds = time.perf_counter() - began
        nfe, calls = (_mean(getattr(s, name) for s in solutions) for name in ("evaluations", "network_calls"))
        return Made(shown, nfe, calls, per="sample", seconds=seconds)


@contextmanager
def solved(task: Task) -> Iterator[list[Solution]]:
    """The solutions that the task's objective makes inside the block, as they come."""
    kept: list[Solution] = []
    generate = task.objective.generate

    def keeping(*args: Any, **options: Any) -> Solution:
        kept.append(generate(*args, **options))
        return kept[-1]

    vars(task.objective)["generate"] = keeping
    try:
        yield kept
    finally:
        del vars(task.objective)["generate"]


def _mean(counts: Iterator[Any]) -> float | None:
    found = [torch.as_tensor(count).double().flatten().cpu() for count in counts]
    return float(torch.cat(found).mean()) if found else None


def panel_of(artifact: Artifact) -> Panel:
    """The panel that a plugin names for the artifact's task, else the general one.

    Raises:
        UserError: the panel's class is not there, or the model cannot be used on a page.
    """
    import importlib

    named = panel_names()
    for cls in type(artifact.task).__mro__:
        if cls.__name__ not in named:
            continue
        module, _, name = named[cls.__name__].partition(":")
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ImportError as error:
            raise UserError(f"the panel of {cls.__name__} cannot be read: {plugins.one_line(error)}") from error
        if not (isinstance(found, type) and issubclass(found, Panel)):
            raise UserError(f"{named[cls.__name__]} is no Panel: a plugin's panels are 'module:Class' by task")
        return found(artifact)
    return SamplesPanel(artifact)


def panel_names() -> dict[str, str]:
    """Task -> ``module:Class`` of its panel, of all plugins."""
    return {task: path for plugin in plugins.plugins().values() for task, path in plugin.panels.items()}
