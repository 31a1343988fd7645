"""The files that ``flowkit new domain`` writes. ``@MODULE@`` and ``@CLASS@`` become the names."""

from __future__ import annotations

_PLUGIN = '''"""What @MODULE@ offers to FlowKit. Light imports only: every help page reads this file."""

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

_DATA = '''"""Data of @MODULE@: one source a file. This one needs no download: sine waves of random phase."""

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

_TASK = '''"""The task of @MODULE@: how data becomes x1, how it is measured and shown. It holds any objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowkit import atomic
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
        atomic.write_text(path, "\\n".join(",".join(f"{v:.5f}" for v in row) for row in self.rows.tolist()) + "\\n")
        return path
'''

_RECIPE = """# Seconds on a CPU core: flowkit train @MODULE@/recipes/smoke.yaml --plugin @MODULE@
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

_TEST = '''"""The smoke recipe of @MODULE@ trains, saves, loads, is evaluated and samples."""

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

_README = """# @MODULE@

What is here: `data.py` (one source), `task.py` (network, task), `plugin.py` (what FlowKit finds), `recipes/`.

    flowkit data stats @MODULE@/recipes/smoke.yaml --plugin @MODULE@
    flowkit train @MODULE@/recipes/smoke.yaml --plugin @MODULE@ --out runs/@MODULE@
    flowkit sample runs/@MODULE@ --plugin @MODULE@

To be found without `--plugin`, publish an entry point in your pyproject.toml:

    [project.entry-points."flowkit.plugins"]
    @MODULE@ = "@MODULE@.plugin"
"""


def files(module: str) -> dict[str, str]:
    """Files of a domain: relative path -> text with placeholders."""
    return {
        f"{module}/__init__.py": "",
        f"{module}/plugin.py": _PLUGIN,
        f"{module}/data.py": _DATA,
        f"{module}/task.py": _TASK,
        f"{module}/README.md": _README,
        f"{module}/recipes/smoke.yaml": _RECIPE,
        f"{module}/tests/test_{module}.py": _TEST,
    }
