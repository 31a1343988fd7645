"""The task without a domain: data, task, pictures."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from flowkit.errors import UserError
from flowkit.nn.mlp import MLP
from flowkit.nn.network import Head, NetworkSpec
from flowkit.objectives import FlowMatching
from flowkit.points import BranchingData, MixtureData, PointsTask, TwoMoons, scatter
from flowkit.random import Rows
from flowkit.solvers.sampler import Sampler


def small(spec: NetworkSpec) -> MLP:
    return MLP(spec, width=16, depth=2)


def small_labelled(spec: NetworkSpec) -> MLP:
    return MLP(spec, width=16, depth=2, labels={"label": 8})


def task(classes: int = 0, **options: float) -> PointsTask:
    torch.manual_seed(0)
    return PointsTask(small_labelled if classes else small, FlowMatching(**options), classes=classes)  # type: ignore[arg-type]


@pytest.mark.parametrize("source", [MixtureData(size=20_000), TwoMoons(size=20_000), BranchingData(size=20_000)])
def test_data_are_a_function_of_seed_and_split(source: MixtureData | TwoMoons | BranchingData) -> None:
    a, b = source.split("train"), source.split("train")
    assert torch.equal(a.x, b.x)
    assert len(a) == 20_000
    held = source.split("validation")
    assert len(held) == 4000
    assert not torch.equal(held.x, a.x[:4000])
    assert not torch.equal(held.x, source.split("test").x)
    raw = a.batch([5, 3])
    assert torch.equal(raw["x"], a.x[[5, 3]])
    assert source.statistics()["classes"] == source.classes
    with pytest.raises((UserError, TypeError)):
        source.split("trian")  # type: ignore[arg-type]


def test_the_mixture_has_the_modes_that_it_names() -> None:
    source = MixtureData(size=40_000)
    samples = source.split("train")
    for mode in range(8):
        x = samples.x[samples.label == mode]
        angle = 2 * math.pi * mode / 8
        expected = torch.tensor([3 * math.cos(angle), 3 * math.sin(angle)])
        torch.testing.assert_close(x.mean(0), expected, atol=0.03, rtol=0)
        torch.testing.assert_close(x.std(0), torch.full((2,), 0.3), atol=0.02, rtol=0)


def test_the_moons_mirror_each_other() -> None:
    samples = TwoMoons(size=40_000, deviation=0.0).split("train")
    upper, lower = samples.x[samples.label == 0], samples.x[samples.label == 1]
    torch.testing.assert_close(upper.mean(0), -lower.mean(0), atol=0.05, rtol=0)
    radius = (upper - torch.tensor([-1.0, -0.5])).norm(dim=1)
    torch.testing.assert_close(radius, torch.full_like(radius, 2.0), atol=1e-5, rtol=0)


def test_branches_double_from_class_to_class() -> None:
    samples = BranchingData(size=20_000, deviation=0.0).split("train")
    for label in range(4):
        x = samples.x[samples.label == label]
        places = (x * 1e4).round().unique(dim=0)
        assert len(places) == 2**label
        torch.testing.assert_close(x.norm(dim=1), torch.full((len(x),), 2.0))
        torch.testing.assert_close(x.mean(0), torch.tensor([2.0, 0.0]) * (label == 0), atol=0.1, rtol=0)


def test_a_task_trains_evaluates_and_shows(tmp_path: Path) -> None:
    points, data = task(), MixtureData(size=2000, held_out=300)
    loss = points(data.split("train").batch(range(64)), step=0, generator=Rows(0, 0, 64))
    loss.total.backward()
    assert all(p.grad is not None for p in points.parameters())
    sampler = Sampler(steps=4)
    points.train()
    scores = points.evaluate(data.split("validation"), sampler=sampler, seed=1)
    assert points.training
    assert scores == points.evaluate(data.split("validation"), sampler=sampler, seed=1)
    assert scores["nfe"] == 4.0
    assert set(scores) == {"energy_distance", "wasserstein2", "nfe", "failed"}
    picture = points.present(data.split("validation"), sampler=sampler)["points"]
    assert picture.save(tmp_path / "a.b").name == "a.b.png"
    assert (tmp_path / "a.b.png").read_bytes().startswith(b"\x89PNG")
    assert points.sample(10, sampler=sampler)["points"].save(tmp_path / "s").exists()


def test_classes_condition_the_network_and_can_be_asked_for() -> None:
    points, data = task(classes=8, drop_condition=0.5), MixtureData(size=2000, held_out=300)
    points(data.split("train").batch(range(64)), generator=Rows(0, 0, 64)).total.backward()
    embedding = points.networks.main.embeddings["label"].weight  # type: ignore[index,union-attr]
    assert embedding.grad is not None
    assert bool((embedding.grad.abs().sum(1) > 0).all())  # all classes, and the null one
    pipeline = points.pipeline(Sampler(steps=2))
    assert not torch.equal(pipeline(20, label=1), pipeline(20, label=2))
    assert torch.equal(pipeline(20, seed=3), pipeline(20, seed=3))
    assert points.sample(5, sampler=Sampler(steps=2), request={"label": 3})
    with pytest.raises(UserError, match="no class 8: its classes are 0 to 7"):
        pipeline(5, label=8)
    with pytest.raises(UserError, match="asked for 'lable': did you mean 'label'"):
        points.sample(5, sampler=Sampler(), request={"lable": 1})
    with pytest.raises(UserError, match="trained without classes"):
        task().pipeline(Sampler())(5, label=0)


def test_the_mlp_is_built_to_order() -> None:
    spec = NetworkSpec(inputs=2, times=2, heads=(Head("v"), Head("spread", "scalar", detach=True)))
    net = MLP(spec, dimension=6, width=8, depth=1, vectors={"goal": 4})
    x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(0, 1, 5)
    from flowkit.cond import Cond

    out = net((x, x), (t, t), Cond({"goal": torch.ones(5, 2, 2)}))
    assert out["v"].shape == (5, 2, 3)
    assert out["spread"].shape == (5,)
    out["spread"].sum().backward()
    assert net.first.weight.grad is None  # the head reads the features, and teaches them nothing
    assert all(parameter.grad is not None for parameter in net.heads["spread"].parameters())


def test_scatter_takes_one_coordinate_and_no_points() -> None:
    picture = scatter({"line": torch.zeros(4, 1), "none": torch.zeros(0, 1)})
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.shape[1] == 800
