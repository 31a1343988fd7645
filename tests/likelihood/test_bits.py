"""``flowkit evaluate --bpd``: the numbers of a task with codes, how they are cut into batches, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from flowkit.cli.main import main
from flowkit.cond import Cond
from flowkit.couplings import Batch
from flowkit.data import RawBatch, Samples
from flowkit.errors import UserError
from flowkit.fields.predictions import DiffusionVelocity
from flowkit.metrics.dequantisers import Levels, TruncatedNormal, Uniform
from flowkit.nn.causal_transformer import CausalTransformer
from flowkit.nn.network import Network, NetworkSpec
from flowkit.objectives import IDODE, CaLMFlow, ConsistencyFM, FlowMatching, Networks, Objective
from flowkit.paths import VPLogSNRPath
from flowkit.points import PointsTask
from flowkit.tasks import Presentation, Task
from flowkit.testing import GaussianMixture, QuantisedMixture
from flowkit.train.bits import bits_per_dimension

VP = VPLogSNRPath()
LAW = QuantisedMixture(GaussianMixture.ring(components=3, radius=0.5, scale=0.05), VP)


class Codes(Samples):
    """Draws of the law."""

    def __init__(self, n: int) -> None:
        self.codes = LAW.sample(n, torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.codes)

    def batch(self, indices) -> RawBatch:
        return {"codes": self.codes[list(indices)]}


class Exact(Network):
    """The exact output, with a parameter that says where it is."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec)
        self.nothing = torch.nn.Parameter(torch.zeros(()))

    def forward(self, inputs, times, cond: Cond) -> dict[str, Tensor]:
        x, t = inputs[0].double(), times[0].double()
        point = VP.at((x - VP.coefficients(t).alpha[:, None] * LAW.data(x, t)) / VP.coefficients(t).sigma[:, None],
                      LAW.data(x, t), t)  # fmt: skip
        return {"v": DiffusionVelocity().target(point, VP).to(inputs[0].dtype) + 0.0 * self.nothing}


class Lattice(Task):
    """Points on a lattice of bytes."""

    def __init__(self, objective: Objective, network=Exact) -> None:
        super().__init__()
        self.objective, self.networks = objective, Networks.build(objective.needs(), network)

    def codes(self, raw: RawBatch) -> tuple[Tensor, Cond]:
        return raw["codes"], Cond()

    def prepare(self, raw: RawBatch, generator=None) -> Batch:
        return Batch(x1=Levels().centres(raw["codes"]))

    def evaluate(self, samples, *, sampler, seed=0, limit=None) -> dict[str, float]:
        return {}

    def sample(self, n, *, sampler, seed=0, request=None) -> dict[str, Presentation]:
        return {}


@pytest.fixture(scope="module")
def exact() -> Lattice:
    return Lattice(IDODE(path=VP))


def test_the_exact_field_gives_the_entropy_and_batches_do_not_matter(exact):
    samples = Codes(12)
    found = bits_per_dimension(exact, samples, dequantiser=TruncatedNormal(), tolerance=1e-3)
    entropy = -float(LAW.log_mass(samples.codes).mean()) / (2.0 * math.log(2.0))
    assert found["bpd"] == pytest.approx(entropy, abs=0.05)
    assert (found["samples"], found["failed"]) == (12.0, 0.0)
    again = bits_per_dimension(exact, samples, dequantiser=TruncatedNormal(), tolerance=1e-3, batch=5)
    assert again["bpd"] == pytest.approx(found["bpd"], abs=5e-3)
    few = bits_per_dimension(exact, samples, dequantiser=TruncatedNormal(), tolerance=1e-3, limit=3)
    assert few["samples"] == 3.0


def test_a_task_without_codes_and_a_model_without_field_are_refused():
    points = PointsTask(Exact, FlowMatching())
    with pytest.raises(UserError, match="need data of whole numbers, and PointsTask has none: leave out --bpd"):
        bits_per_dimension(points, Codes(2), dequantiser=Uniform())

    def transformer(spec: NetworkSpec) -> Network:
        return CausalTransformer(replace(spec, state=(2,)), width=8, heads=1, layers=1)

    with pytest.raises(UserError, match="ConsistencyFM learns no field that could be solved"):
        bits_per_dimension(Lattice(ConsistencyFM()), Codes(2), dequantiser=Uniform())
    with pytest.raises(UserError, match="CaLMFlow has no velocity field"):
        bits_per_dimension(Lattice(CaLMFlow(points=3), transformer), Codes(2), dequantiser=Uniform())
    with pytest.raises(UserError, match="at least 1 noise"):
        bits_per_dimension(Lattice(IDODE()), Codes(2), dequantiser=Uniform(), draws=0)


def test_the_verb_measures_pictures_and_refuses_points(tmp_path, capsys):
    quiet = ["--device", "cpu", "--trainer.progress", "false", "--trainer.tensorboard", "false"]
    quiet += ["--trainer.steps", "2", "--trainer.evaluate_every", "0", "--trainer.sample_every", "0"]
    quiet += ["--trainer.checkpoint_every", "0"]
    few = ["--data.pictures", "40", "--data.held_out", "8", "--task.feature_steps", "0", "--trainer.batch", "8"]
    run = str(tmp_path / "glyphs")
    assert main(["train", "imaging/smoke/glyphs-idode", "--out", run, *quiet, *few]) == 0
    capsys.readouterr()
    command = ["evaluate", run, "--bpd", "--dequantisation", "uniform", "--limit", "2", "--tolerance", "0.1"]
    assert main([*command, "--json", "--device", "cpu"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert set(metrics) == {"bpd", "bpd_standard_error", "nfe", "samples", "failed"}
    assert metrics["samples"] == 2.0
    assert 5.0 < metrics["bpd"] < 30.0
    plane = str(tmp_path / "plane")
    small = ["--data.size", "100", "--data.held_out", "20", "--trainer.batch", "8"]
    assert main(["train", "generic/mixture-idode", "--out", plane, *quiet, *small]) == 0
    assert main(["evaluate", plane, "--bpd", "--device", "cpu"]) != 0
    assert "PointsTask has none: leave out --bpd" in capsys.readouterr().err
    assert main(["evaluate", plane, "--dequantisation", "uniform", "--device", "cpu"]) != 0
    assert "add --bpd" in capsys.readouterr().err
