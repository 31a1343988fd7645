"""The files that ``flowkit new`` writes. ``@MODULE@`` and ``@CLASS@`` become the names."""

from __future__ import annotations

_METHOD = '''"""@CLASS@: say in one sentence what it is, with the equation and the paper (title, arXiv id).

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
        batch, point, weight, terms = self.draw(batch, generator)
        output = networks.main((point.xt,), (point.t,), batch.cond)["v"]
        error = squared_error(output, self.prediction.target(point, self.path), batch.loss_mask)
        terms = {"flow": weight * point.t**self.sharpness * error, **terms}
        return Loss(torch.stack([term.mean() for term in terms.values()]).sum(), terms)
'''

_METHOD_TEST = '''"""Tests of @CLASS@: its defining property, then that its recipe trains, saves, loads and samples."""

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

_METHOD_RECIPE = """# Two seconds on a CPU core: flowkit train @MODULE@.yaml --plugin @MODULE@.py
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

_DOMAIN_PLUGIN = '''"""What @MODULE@ offers to FlowKit. Light imports only: every help page reads this file."""

from __future__ import annotations

from pathlib import Path

from flowkit.config.plugins import Plugin

plugin = Plugin(
    name="@MODULE@",
    summary="say what this domain is in one line",
    modules=("@MODULE@.data", "@MODULE@.task"),
    pretrained=Path(__file__).parent / "pretrained",
    recipes=Path(__file__).parent / "recipes",
)
'''

_DOMAIN_DATA = '''"""Data of @MODULE@: one source a file. This one needs no download: sine waves of random phase."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.data import DataSource, RawBatch, Samples, Split


class WaveSamples(Samples):
    """Waves in memory (n, length)."""

    def __init__(self, waves: Tensor) -> None:
        self.waves = waves

    def __len__(self) -> int:
        return len(self.waves)

    def batch(self, indices: Sequence[int]) -> RawBatch:
        """Gather rows."""
        return {"wave": self.waves[torch.as_tensor(indices, dtype=torch.long)]}


class @CLASS@Waves(DataSource):
    """Sine waves of one period and random phase.

    Args:
        size: waves of each split.
        length: samples of a wave.
    """

    def __init__(self, *, size: int = 1000, length: int = 16) -> None:
        self.size, self.length = size, length

    def prepare(self) -> None:
        """Nothing to fetch; a real source downloads and caches here, once."""

    def split(self, name: Split) -> Samples:
        """One split, the same at every call."""
        generator = torch.Generator().manual_seed(("train", "validation", "test").index(name))
        phase = torch.rand(self.size, 1, generator=generator) * 2 * math.pi
        return WaveSamples(torch.sin(torch.arange(self.length) * (2 * math.pi / self.length) + phase))

    def statistics(self) -> Mapping[str, Any]:
        """What ``flowkit data stats`` prints."""
        waves = self.split("train").batch(range(self.size))["wave"]
        return {"waves": self.size, "mean": float(waves.mean()), "deviation": float(waves.std())}
'''

_DOMAIN_TASK = '''"""The task of @MODULE@: how data becomes x1, how it is measured and shown. It holds any objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.cond import Cond
from flowkit.couplings.coupling import Batch
from flowkit.data import RawBatch, Samples
from flowkit.nn.network import Network, NetworkSpec
from flowkit.objectives.objective import Networks, Objective
from flowkit.random import RandomSource
from flowkit.solvers.sampler import Sampler
from flowkit.tasks import Presentation, Task


class @CLASS@Network(Network):
    """Two layers, built to the objective's order: any number of states, times and heads."""

    def __init__(self, spec: NetworkSpec, length: int = 16, width: int = 64) -> None:
        super().__init__(spec)
        inputs = length * spec.inputs + spec.times
        self.body = nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.heads = nn.ModuleDict({h.name: nn.Linear(width, length if h.shape == "state" else 1) for h in spec.heads})

    def forward(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        """Head name -> output."""
        hidden = self.body(torch.cat([*inputs, *(t.unsqueeze(1) for t in times)], 1))
        outputs = {h.name: self.heads[h.name](hidden.detach() if h.detach else hidden) for h in self.spec.heads}
        return {h.name: outputs[h.name] if h.shape == "state" else outputs[h.name].squeeze(1) for h in self.spec.heads}


class @CLASS@Task(Task):
    """Learn waves.

    Args:
        network: builds a network to the objective's order.
        objective: what is minimised.
        length: samples of a wave.
    """

    def __init__(self, network: Callable[[NetworkSpec], Network], objective: Objective, *, length: int = 16) -> None:
        super().__init__()
        self.objective, self.length = objective, length
        self.networks = Networks.build(objective.needs(), network)

    def prepare(self, raw: RawBatch, generator: RandomSource | None = None) -> Batch:
        """Waves are x1 as they are."""
        return Batch(x1=raw["wave"])

    @torch.no_grad()
    def draw(self, n: int, *, sampler: Sampler, seed: int = 0) -> Tensor:
        """``n`` waves (n, length)."""
        generator = torch.Generator(self.device).manual_seed(seed)
        like = torch.zeros(n, self.length, device=self.device)
        return self.objective.generate(self.networks, like, Cond(), sampler=sampler, generator=generator).x

    def evaluate(
        self, samples: Samples, *, sampler: Sampler, seed: int = 0, limit: int | None = None
    ) -> dict[str, float]:
        """How far the deviation of made waves is from that of real ones."""
        n = min(len(samples), limit or 500)
        real = samples.batch(range(n))["wave"]
        return {"deviation_error": float((self.draw(n, sampler=sampler, seed=seed).cpu().std() - real.std()).abs())}

    def sample(
        self, n: int, *, sampler: Sampler, seed: int = 0, request: Mapping[str, Any] | None = None
    ) -> Mapping[str, Presentation]:
        """``n`` waves as a table."""
        return {"waves": Table(self.draw(n, sampler=sampler, seed=seed).cpu())}

    def pipeline(self, sampler: Sampler) -> Callable[..., Tensor]:
        """What ``flowkit.load`` gives: ``pipeline(n, seed=0)``."""
        return lambda n, seed=0: self.draw(n, sampler=sampler, seed=seed)


class Table:
    """Rows of numbers, one a line."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def to_tensorboard(self, writer: Any, tag: str, step: int) -> None:
        """A histogram."""
        writer.add_histogram(tag, self.rows, step)

    def save(self, stem: Path) -> Path:
        """Write beside ``stem``."""
        path = stem.with_suffix(".csv")
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text("\\n".join(",".join(f"{v:.5f}" for v in row) for row in self.rows.tolist()) + "\\n")
        temporary.replace(path)
        return path
'''

_DOMAIN_RECIPE = """# Seconds on a CPU core: flowkit train @MODULE@/recipes/smoke.yaml --plugin @MODULE@
description: waves of @MODULE@, to see that everything works
data: {class_path: @CLASS@Waves, init_args: {size: 500}}
task:
  class_path: @CLASS@Task
  init_args:
    network: {class_path: @CLASS@Network, init_args: {width: 32}}
    objective: {class_path: FlowMatching}
trainer: {steps: 100, batch: 64, lr: 1.0e-3, evaluate_every: 0, sample_every: 0, checkpoint_every: 0}
sampler: {solver: Midpoint, steps: 5}
seed: 0
"""

_DOMAIN_TEST = '''"""The smoke recipe of @MODULE@ trains, saves, loads, is evaluated and samples."""

from __future__ import annotations

from pathlib import Path

import flowkit
from flowkit.cli.main import main
from flowkit.config.plugins import add_plugin_file

PACKAGE = Path(__file__).parents[1]
add_plugin_file(PACKAGE)


def test_smoke_recipe_trains_saves_loads_and_samples(tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    recipe = str(PACKAGE / "recipes" / "smoke.yaml")
    assert main(["train", recipe, "--out", str(run), "--trainer.steps", "3", "--trainer.device", "cpu"]) == 0
    assert flowkit.load(run)(5).shape == (5, 16)
    assert main(["evaluate", str(run), "--limit", "20", "--device", "cpu"]) == 0
    assert main(["sample", str(run), "-n", "3", "--out", str(out), "--device", "cpu"]) == 0
    assert len((out / "waves.csv").read_text().splitlines()) == 3
'''

_DOMAIN_README = """# @MODULE@

What is here: `data.py` (one source), `task.py` (network, task), `plugin.py` (what FlowKit finds), `recipes/`.

    flowkit data stats @MODULE@/recipes/smoke.yaml --plugin @MODULE@
    flowkit train @MODULE@/recipes/smoke.yaml --plugin @MODULE@ --out runs/@MODULE@
    flowkit sample runs/@MODULE@ --plugin @MODULE@

To be found without `--plugin`, publish an entry point in your pyproject.toml:

    [project.entry-points."flowkit.plugins"]
    @MODULE@ = "@MODULE@.plugin"
"""


def method(module: str) -> dict[str, str]:
    """Files of a method: relative path -> text with placeholders."""
    return {f"{module}.py": _METHOD, f"test_{module}.py": _METHOD_TEST, f"{module}.yaml": _METHOD_RECIPE}


def domain(module: str) -> dict[str, str]:
    """Files of a domain: relative path -> text with placeholders."""
    return {
        f"{module}/__init__.py": "",
        f"{module}/plugin.py": _DOMAIN_PLUGIN,
        f"{module}/data.py": _DOMAIN_DATA,
        f"{module}/task.py": _DOMAIN_TASK,
        f"{module}/README.md": _DOMAIN_README,
        f"{module}/recipes/smoke.yaml": _DOMAIN_RECIPE,
        f"{module}/tests/test_{module}.py": _DOMAIN_TEST,
    }
