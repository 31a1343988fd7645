"""The files that ``flowkit new method`` writes. ``@MODULE@`` and ``@CLASS@`` become the names."""

from __future__ import annotations

_OBJECTIVE = '''"""@CLASS@: say in one sentence what it is, with the equation and the paper (title, arXiv id).

Minimises E t^sharpness |v(x_t, t) - dx_t/dt|^2 as an example: with sharpness 0 it is flow matching.
In FlowKit t = 0 is noise, t = 1 is data.
"""

from __future__ import annotations

from typing import Any

import torch

from flowkit.couplings.coupling import Batch
from flowkit.errors import UserError
from flowkit.objectives.flow_matching import FlowMatching, squared_error
from flowkit.objectives.objective import Loss, Networks
from flowkit.random import RandomSource


class @CLASS@(FlowMatching):
    """Flow matching whose late times count more.

    Args:
        sharpness: exponent of the weight over time, at least 0.
        base: what FlowMatching takes: path, source, coupling, times, prediction, ...
    """

    def __init__(self, *, sharpness: float = 1.0, **base: Any) -> None:
        super().__init__(**base)
        if sharpness < 0:
            raise UserError(f"sharpness is {sharpness}: it must not be negative")
        self.sharpness = sharpness

    def loss(
        self,
        networks: Networks,
        batch: Batch,
        *,
        phase: str = "main",
        step: int = 0,
        generator: RandomSource | None = None,
    ) -> Loss:
        """Mean over the batch of t^sharpness times the squared error of each sample."""
        batch, point, weight, terms = self.draw(batch, generator, networks)
        output = networks.main((point.xt,), (point.t,), batch.cond)["v"]
        error = squared_error(output, self.prediction.target(point, self.path), batch.loss_mask)
        terms = {"flow": weight * point.t**self.sharpness * error, **terms}
        return Loss(torch.stack([term.mean() for term in terms.values()]).sum(), terms)
'''

_TEST = '''"""Tests of @CLASS@: its defining property, then that its recipe trains, saves, loads and samples."""

from __future__ import annotations

from pathlib import Path

import torch

import flowkit
from flowkit.cli.main import main
from flowkit.config.plugins import add_plugin_file

HERE = Path(__file__).parent
PLUGIN, RECIPE = HERE / "@MODULE@.py", HERE / "@MODULE@.yaml"
add_plugin_file(PLUGIN)


def losses(objective: str, *overrides: tuple[str, str]) -> torch.Tensor:
    recipe = flowkit.load_recipe(RECIPE, [("task.objective", objective), *overrides])
    built = recipe.build("task", "data")
    raw = built.data.split("train").batch(range(256))
    return built.task(raw, generator=torch.Generator().manual_seed(0)).terms["flow"]


def test_without_sharpness_it_is_flow_matching():
    torch.testing.assert_close(losses("@CLASS@", ("task.objective.sharpness", "0")), losses("FlowMatching"))


def test_sharpness_lowers_the_weight_of_early_times():
    ratio = losses("@CLASS@", ("task.objective.sharpness", "2")) / losses("FlowMatching")
    assert ((ratio > 0) & (ratio < 1)).all()


def test_its_recipe_trains_saves_loads_and_samples(tmp_path):
    run = tmp_path / "run"
    assert main(["train", str(RECIPE), "--out", str(run), "--trainer.steps", "3", "--trainer.device", "cpu"]) == 0
    points = flowkit.load(run)(16)
    assert points.shape == (16, 2)
    assert points.isfinite().all()
'''

_RECIPE = """# Two seconds on a CPU core: flowkit train @MODULE@.yaml --plugin @MODULE@.py
description: @CLASS@ on eight Gaussians in the plane
data: {class_path: MixtureData, init_args: {size: 10000, held_out: 500}}
task:
  class_path: PointsTask
  init_args:
    network: {class_path: MLP, init_args: {width: 64}}
    objective: {class_path: @CLASS@, init_args: {sharpness: 1.0}}
trainer: {steps: 200, batch: 256, lr: 1.0e-3, evaluate_every: 0, sample_every: 0, checkpoint_every: 0}
sampler: {solver: Midpoint, steps: 10}
seed: 0
"""


def files(module: str) -> dict[str, str]:
    """Files of a method: relative path -> text with placeholders."""
    return {f"{module}.py": _OBJECTIVE, f"test_{module}.py": _TEST, f"{module}.yaml": _RECIPE}
