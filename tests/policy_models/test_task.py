"""What the task hands to an objective, what it refuses, and that it learns with every objective of the core."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from fork_toy import ForkToy, small

from domains.policy.models.encoders import ImageEncoder, ObservationEncoder
from domains.policy.models.mlp import ChunkMLP
from domains.policy.models.unet import ChunkUNet
from domains.policy.rollout import rollout
from domains.policy.task import PolicyTask
from flowkit.errors import UserError
from flowkit.fields.guidance import ClassifierFree
from flowkit.fields.predictions import DataPrediction, NoisePrediction, Velocity
from flowkit.objectives.ada_flow import AdaFlow
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.objective import Objective
from flowkit.objectives.regression import Regression
from flowkit.paths.diffusion import DiffusionPath
from flowkit.random import Rows
from flowkit.solvers.ddim import DDIM
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.variance_adaptive import VarianceAdaptive
from flowkit.times.laws import GridTimes


def batch(data: ForkToy, rows: range | list[int]) -> dict[str, torch.Tensor]:
    data.prepare()
    return data.split("train").batch(list(rows))


def near_the_end(data: ForkToy) -> dict[str, torch.Tensor]:
    """Windows with 3 real actions."""
    data.prepare()
    samples = data.split("train")
    real = samples.batch(range(len(samples)))["real"].sum(1)
    return samples.batch((real == 3).nonzero()[:4, 0].tolist())


# --- batches ---------------------------------------------------------------------------------------------------------


def test_actions_lie_in_minus_one_to_one_and_come_back() -> None:
    task, raw = small(), batch(ForkToy(), range(7 * 26))
    x1 = task.prepare(raw).x1
    assert x1 is not None
    assert x1.shape == (7 * 26, 16, 1)
    assert float(x1.min()) == pytest.approx(-1.0, abs=1e-5)
    assert float(x1.max()) == pytest.approx(1.0, abs=1e-5)
    assert torch.allclose(task.normaliser.actions(x1), raw["actions"], atol=1e-6)


def test_repeats_beyond_the_end_count_unless_they_are_masked() -> None:
    """Under ``mask`` the loss is blind to the repeated actions; under ``repeat`` it is not."""
    raw = near_the_end(ForkToy())
    changed = dict(raw)
    changed["actions"] = raw["actions"].where(raw["real"][:, :, None], torch.full((), 0.123))
    for padded, same in (("mask", True), ("repeat", False)):
        task = small(FlowMatching(prediction=NoisePrediction()), padded=padded)

        def loss(given: dict[str, torch.Tensor], task: PolicyTask = task) -> torch.Tensor:
            prepared = task.prepare(given)
            # Not through the network, which reads the repeats: through the loss mask alone.
            assert prepared.x1 is not None
            keep = prepared.loss_mask
            return prepared.x1 if keep is None else prepared.x1.where(keep, torch.zeros(()))

        assert torch.equal(loss(raw), loss(changed)) == same


def test_a_masked_chunk_has_no_gradient_from_repeats() -> None:
    task = small(Regression(), padded="mask")
    task.train()
    task(near_the_end(ForkToy()), generator=Rows(0, total=4)).total.backward()
    weight = task.networks.main.get_submodule("heads.x1").weight.grad
    assert weight is not None
    assert (weight[:3].abs().sum(1) > 0).all()
    assert (weight[3:] == 0).all()


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"state": 4}, "state is 4, the data has 2"),
        ({"actions": 3}, "actions is 3, the data has 1"),
        ({"horizon": 8}, "horizon is 8, the data has 16"),
        ({"history": 2}, "history is 2, the data has 1"),
        ({"execute": 4}, "execute is 4, the data has 8"),
        ({"images": {"eye": [40, 40]}}, "images is {eye: \\[40, 40\\]}, the data has {}"),
    ],
)
def test_sizes_that_do_not_fit_the_data_are_named(sizes: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        small(data=ForkToy(), **sizes)


@pytest.mark.parametrize(
    "wrong",
    [{"state": 0}, {"actions": 0}, {"execute": 17}, {"padded": "zeros"}, {"images": {"eye": [3]}}, {"history": 0}],
)
def test_impossible_sizes_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError):
        small(**wrong)


# --- every objective -------------------------------------------------------------------------------------------------

OBJECTIVES: dict[str, tuple[Objective, Sampler]] = {
    "flow": (FlowMatching(), Sampler(steps=10)),
    "flow-x1": (FlowMatching(prediction=DataPrediction()), Sampler(steps=10)),
    "adaflow": (AdaFlow(prediction=DataPrediction()), Sampler(controller=VarianceAdaptive(0.1, max_steps=10))),
    "adaflow-v": (AdaFlow(prediction=Velocity()), Sampler(controller=VarianceAdaptive(0.1, max_steps=10))),
    "bc": (Regression(), Sampler()),
    "diffusion": (
        FlowMatching(path=DiffusionPath(), prediction=NoisePrediction(), times=GridTimes(100)),
        Sampler(solver=DDIM(clip=1.0), steps=10),
    ),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_it_learns_three_windows_by_heart(name: str) -> None:
    """After a few hundred steps on three windows, plans repeat their actions."""
    objective, sampler = OBJECTIVES[name]
    data = ForkToy(count=3, validation=0.34, test=0.34)
    data.prepare()
    task = small(objective, data=data)
    raw = data.split("train").batch([0, 8, 12] * 16)
    optimiser = torch.optim.Adam(task.parameters(), lr=3e-3)
    task.train()
    for step in range(900 if name == "diffusion" else 300):
        optimiser.zero_grad()
        task(raw, step=step, generator=Rows(step, total=48)).total.backward()
        optimiser.step()
    task.eval()
    plan = task.plan(raw, sampler=sampler, generator=Rows(7, total=48))
    error = (plan.actions - raw["actions"]).square().mean().sqrt()
    assert plan.actions.shape == (48, 16, 1)
    assert float(error) < 0.5 * float(raw["actions"].std())
    assert plan.evaluations.shape == plan.network_calls.shape == (48,)
    assert (plan.sigma0 is not None) == name.startswith("adaflow")
    if name == "bc":
        assert (plan.evaluations == 1).all()


def test_sigma_tells_where_demonstrations_disagree() -> None:
    """Before the fork the lane is open, behind it the state says it all."""
    data = ForkToy(count=32)
    data.prepare()
    task = small(AdaFlow(prediction=DataPrediction()), data=data)
    samples = data.split("train")
    optimiser = torch.optim.Adam(task.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    task.train()
    for step in range(400):
        rows = torch.randint(len(samples), (128,), generator=generator).tolist()
        optimiser.zero_grad()
        task(samples.batch(rows), step=step, generator=Rows(step, total=128)).total.backward()
        optimiser.step()
    task.eval()
    raw = samples.batch(range(len(samples)))
    sigma = task.plan(raw, sampler=Sampler(steps=1), generator=Rows(0, total=len(samples))).sigma0
    assert sigma is not None
    before, behind = sigma[(raw["step"] >= 4) & (raw["step"] <= 8)].mean(), sigma[raw["step"] >= 18].mean()
    assert float(before) > 2.5 * float(behind)


def test_guidance_works_with_dropped_observations() -> None:
    task = small(FlowMatching(prediction=DataPrediction(), drop_condition=0.3))
    raw = batch(ForkToy(), range(6))
    task.train()
    assert math.isfinite(float(task(raw, generator=Rows(0, total=6)).total.detach()))
    task.eval()
    plain = task.plan(raw, sampler=Sampler(steps=4), generator=Rows(0, total=6))
    guided = task.plan(raw, sampler=Sampler(steps=4, guidance=ClassifierFree(2.0)), generator=Rows(0, total=6))
    assert (plain.network_calls == 4).all()
    assert (guided.network_calls == 8).all()
    assert not torch.allclose(plain.actions, guided.actions)


def test_networks_and_encoders_can_be_exchanged() -> None:
    data = ForkToy(size=40, history=2)
    data.prepare()
    torch.manual_seed(0)
    task = PolicyTask(
        lambda spec: ChunkUNet(spec, widths=[8, 16], groups=4, time_width=8),  # pyright: ignore[reportArgumentType]
        AdaFlow(prediction=DataPrediction()),
        state=2,
        actions=1,
        history=2,
        images={"eye": [40, 40]},
        encoder=lambda spec: ObservationEncoder(
            spec, width=8, image=lambda h, w: ImageEncoder(h, w, channels=[4, 8], groups=4, size=6)
        ),
        states="deviation",
    )
    task.adapt(data)
    raw = data.split("train").batch(range(5))
    task.train()
    task(raw, generator=Rows(0, total=5)).total.backward()
    assert all(p.grad is not None for p in task.parameters())
    with task.evaluating():
        assert not task.training
        plan = task.plan(raw, sampler=Sampler(steps=2), generator=Rows(0, total=5))
    assert task.training
    assert plan.actions.shape == (5, 16, 1)


# --- judging ---------------------------------------------------------------------------------------------------------


def test_evaluation_counts_executed_real_actions_only() -> None:
    """A policy that always says 0: the error is the root mean square of the normalised demonstrated actions."""
    task, data = small(), ForkToy(count=12, validation=0.25)
    data.prepare()
    samples = data.split("validation")

    class Zero(ChunkMLP):
        def forward(self, inputs, times, cond):  # type: ignore[no-untyped-def]
            return {"v": -inputs[0] / (1 - times[0])[:, None, None]}

    task.networks.by_name["main"].__class__ = Zero
    found = task.evaluate(samples, sampler=Sampler(steps=1))
    raw = samples.batch(range(len(samples)))
    scale, shift = task.normaliser.action_scale, task.normaliser.action_shift
    zero = task.normaliser.actions(torch.zeros(1))
    expected, count = 0.0, 0
    for i in range(len(samples)):
        for k in range(task.execute):
            if raw["real"][i, k]:
                expected += float(((raw["actions"][i, k] - zero) * scale) ** 2)
                count += 1
    assert shift is not None
    assert found["action_rmse"] == pytest.approx((expected / count) ** 0.5, rel=1e-4)
    assert found["nfe"] == found["nfe_p95"] == found["network_calls"] == 1
    assert found["failed"] == 0


def test_evaluation_does_not_depend_on_how_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    task, data = small(), ForkToy(count=8, validation=0.25)
    data.prepare()
    samples = data.split("validation")
    whole = task.evaluate(samples, sampler=Sampler(steps=3), seed=1)
    monkeypatch.setattr("domains.policy.judge._BATCH", 7)
    assert task.evaluate(samples, sampler=Sampler(steps=3), seed=1) == pytest.approx(whole, rel=1e-5)
    assert task.evaluate(samples, sampler=Sampler(steps=3), seed=2)["action_rmse"] != pytest.approx(
        whole["action_rmse"], rel=1e-6
    )


def test_pictures_of_chunks_and_requests() -> None:
    task, data = small(), ForkToy()
    data.prepare()
    shown = task.present(data.split("validation"), sampler=Sampler(steps=2))
    assert set(shown) == {"chunks"}
    assert shown["chunks"].pixels.std() > 5  # pyright: ignore[reportAttributeAccessIssue]
    one, two = (
        task.sample(3, sampler=Sampler(steps=2), request={"state": state})["chunks"] for state in ("0,0", "1.2,0.3")
    )
    assert (one.pixels != two.pixels).any()  # pyright: ignore[reportAttributeAccessIssue]
    for request, words in (
        ({"text": "x"}, "no request 'text'"),
        ({"state": "1"}, "2 finite numbers, 1"),
        ({"state": "a,b"}, "commas"),
    ):
        with pytest.raises(UserError, match=words):
            task.sample(1, sampler=Sampler(steps=2), request=request)


def test_evaluation_acts_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test split on the starts of evaluations, others on those for choosing; a film of the same episodes."""
    seen: list[int] = []

    def watched(*args: Any, first_start: int, **kwargs: Any) -> Any:
        seen.append(first_start)
        return rollout(*args, first_start=first_start, **kwargs)

    monkeypatch.setattr("domains.policy.evaluation.rollout", watched)
    task, data = small(environment="FlowKit/Fork-v0", rollout_episodes=3), ForkToy()
    data.prepare()
    found = task.evaluate(data.split("validation"), sampler=Sampler(steps=2), limit=10)
    assert 0.0 <= found["success"] <= 1.0
    assert found["rollout_nfe"] == 2.0
    assert found == task.evaluate(data.split("validation"), sampler=Sampler(steps=2), limit=10)
    tested = task.evaluate(data.split("test"), sampler=Sampler(steps=2))
    assert tested["success_low"] <= tested["success"] <= tested["success_high"]
    assert tested["nfe_share_2"] == 1.0
    assert 0.0 < tested["latency_ms"] <= tested["latency_ms_p95"]
    assert seen == [200_000, 200_000, 100_000]
    shown = task.present(data.split("validation"), sampler=Sampler(steps=2))
    assert set(shown) == {"chunks", "episodes"}
    assert set(task.sample(1, sampler=Sampler(steps=2))) == {"chunks", "episodes"}


def test_an_environment_that_cannot_be_made_is_told_before_the_training() -> None:
    with pytest.raises(UserError, match="Fork"):
        small(environment="FlowKit/Frok-v0", rollout_episodes=1)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ("Pendulum-v1", "the data does not fit Pendulum-v1: observation"),
        ("CartPole-v1", "the data does not fit CartPole"),
    ],
)
def test_an_environment_of_other_spaces_is_told_before_the_training(environment: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        small(environment=environment, rollout_episodes=1)
