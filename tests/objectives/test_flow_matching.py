"""The flow-matching objective: its gradient, masks, dropped conditions, predictions and sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from flowkit.cond import Cond
from flowkit.couplings import Batch, GivenPairs, MinibatchOT
from flowkit.errors import UserError
from flowkit.fields import (
    ClassifierFree,
    DataPrediction,
    DiffusionVelocity,
    NoisePrediction,
    ScorePrediction,
    Velocity,
)
from flowkit.nn.mlp import MLP
from flowkit.nn.network import Network, NetworkSpec
from flowkit.objectives import FlowMatching, Networks
from flowkit.objectives.flow_matching import squared_error
from flowkit.paths import LinearPath, TrigonometricPath, VEPath
from flowkit.random import Rows
from flowkit.solvers.controllers import Tolerance
from flowkit.solvers.dormand_prince import DormandPrince
from flowkit.solvers.euler import Euler
from flowkit.solvers.heun import Heun
from flowkit.solvers.sampler import Sampler
from flowkit.sources import ScaledGaussian
from flowkit.testing import ExactNetwork, GaussianMixture
from flowkit.times import ImportanceTimes, StratifiedTimes, UniformTimes


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Linear(Network):
    """v = W phi(x, t) with phi = (x, t, x t, 1): linear in its parameters."""

    def __init__(self, spec: NetworkSpec, dimension: int = 2) -> None:
        super().__init__(spec)
        w = torch.randn(dimension, 2 * dimension + 2, generator=generator(5), dtype=torch.float64) * 0.5
        self.w = torch.nn.Parameter(w)

    def features(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([x, t[:, None], x * t[:, None], torch.ones_like(t)[:, None]], 1)

    def forward(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        return {"v": self.features(inputs[0], times[0].to(inputs[0].dtype)) @ self.w.T}


def networks(objective: FlowMatching, factory: object = MLP) -> Networks:
    torch.manual_seed(0)
    return Networks.build(objective.needs(), factory)  # type: ignore[arg-type]


def test_the_gradient_of_the_conditional_loss_is_that_of_the_marginal_loss() -> None:
    mixture, n = GaussianMixture.ring(), 2**16
    objective = FlowMatching()
    nets = networks(objective, Linear)
    g, w = generator(), nets.main.w
    x1 = mixture.sample(n, g)
    loss = objective.loss(nets, Batch(x1=x1), generator=g)
    (conditional,) = torch.autograd.grad(loss.total, w)
    # The marginal one, 2/d E[(W phi - v*) phi^T], from fresh points of the path and the closed form of v*.
    t = torch.rand(n, generator=g, dtype=torch.float64)
    x = mixture.sample_at(t, g)
    phi = nets.main.features(x, t)
    each = ((phi @ w.T - mixture.velocity(x, t))[:, :, None] * phi[:, None, :]).detach()
    # Per-sample gradients of the conditional loss, for its standard error.
    _, point, _, _ = objective.draw(Batch(x1=x1), generator(1))
    phi = nets.main.features(point.xt, point.t.double())
    noise = ((phi @ w.T - point.vt)[:, :, None] * phi[:, None, :]).detach()
    error = ((each.var(0) + noise.var(0)) / n).sqrt()
    assert float(((conditional - each.mean(0)).abs() / error).max()) < 3.0
    # The same with the shortcut of a wrong target must fail: the test can see what it tests.
    wrong = ((phi @ w.T - point.x1)[:, :, None] * phi[:, None, :]).detach().mean(0)
    assert float(((wrong - each.mean(0)).abs() / error).max()) > 30.0


def test_the_loss_of_the_oracle_is_the_variance_that_no_field_can_explain() -> None:
    mixture, n = GaussianMixture.ring(), 20_000
    objective = FlowMatching(times=StratifiedTimes())
    nets = Networks({"main": ExactNetwork(mixture)})
    loss = objective.loss(nets, Batch(x1=mixture.sample(n, generator())), generator=generator(1))
    t = torch.rand(n, generator=generator(2), dtype=torch.float64)
    floor = mixture.velocity_variance(mixture.sample_at(t, generator(3)), t).mean() / 2
    assert float(loss.total) == pytest.approx(float(floor), rel=0.02)
    assert loss.terms["flow"].shape == (n,)
    assert float(loss.total) == pytest.approx(float(loss.terms["flow"].mean()))


@pytest.mark.parametrize("path", [LinearPath(), TrigonometricPath()])
@pytest.mark.parametrize("prediction", [DataPrediction(), NoisePrediction(), ScorePrediction(), DiffusionVelocity()])
def test_every_prediction_has_the_same_velocity_loss(path: LinearPath, prediction: DataPrediction) -> None:
    # |dv|^2 = factor * |d output|^2 for networks that mean the same field: here the oracle of a wrong mixture.
    mixture, other = GaussianMixture.ring(path=path), GaussianMixture.ring(radius=2.0, path=path)
    x1, times = mixture.sample(500, generator()), UniformTimes(0.05, 0.95)
    losses = []
    for p in (Velocity(), prediction):
        objective = FlowMatching(path=path, prediction=p, times=times, error="velocity")
        nets = Networks({"main": ExactNetwork(other, p)})
        losses.append(objective.loss(nets, Batch(x1=x1), generator=generator(1)).terms["flow"])
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-8)


def test_masks_hold_for_prediction_and_target_alike() -> None:
    output = torch.randn(3, 2, 4, generator=generator(), requires_grad=True)
    target = torch.randn(3, 2, 4, generator=generator(1))
    keep = torch.tensor([4, 2, 0])[:, None, None] > torch.arange(4)
    expected = [
        (output[0] - target[0]).square().mean(),
        (output[1, :, :2] - target[1, :, :2]).square().mean(),
        torch.zeros(()),
    ]
    got = squared_error(output, target.masked_fill(~keep, math.nan), keep)
    torch.testing.assert_close(got, torch.stack(expected))
    got.sum().backward()
    assert output.grad is not None
    assert bool(output.grad.isfinite().all())
    assert bool((output.grad.masked_select(~keep.expand_as(output)) == 0).all())
    total = squared_error(output.detach(), target, keep, "sum")
    torch.testing.assert_close(total[1], (output[1, :, :2] - target[1, :, :2]).square().sum().detach())


def test_nan_in_padded_elements_reaches_neither_loss_nor_gradient() -> None:
    objective = FlowMatching(times=StratifiedTimes())
    nets = networks(objective, lambda spec: MLP(spec, dimension=4, width=16, depth=2))
    x1 = torch.randn(6, 4, generator=generator())
    padding = torch.arange(4) < torch.tensor([4, 3, 2, 1, 4, 2])[:, None]
    keep = torch.arange(4) != 1
    results = []
    for filling in (0.0, math.nan, 1e6):
        batch = Batch(x1=x1.masked_fill(~padding, filling), cond=Cond(padding=padding), keep=keep.expand(6, 4))
        nets.zero_grad()
        loss = objective.loss(nets, batch, generator=Rows(3, 0, 6))
        loss.total.backward()
        results.append((loss.total.detach(), *[p.grad.clone() for p in nets.parameters()]))  # type: ignore[union-attr]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)
    # `keep` counts: element 1 is seen by the network and not by the loss.
    batch = Batch(x1=x1, cond=Cond(padding=padding))
    assert not torch.equal(objective.loss(nets, batch, generator=Rows(3, 0, 6)).total, results[0][0])


def test_the_loss_is_a_function_of_the_row_not_of_the_batch() -> None:
    objective = FlowMatching(times=StratifiedTimes(), drop_condition=0.5)
    nets = networks(objective, lambda spec: MLP(spec, labels={"label": 3}))
    x1, label = torch.randn(8, 2, generator=generator()), torch.arange(8) % 3
    cond = Cond({"label": label}, nulls={"label": 3})
    whole = objective.loss(nets, Batch(x1=x1, cond=cond), generator=Rows(7, 0, 8)).terms["flow"]
    halves = [
        objective.loss(nets, Batch(x1=x1[i : i + 4], cond=cond.take(slice(i, i + 4))), generator=Rows(7, i, 8)).terms[
            "flow"
        ]
        for i in (0, 4)
    ]
    torch.testing.assert_close(torch.cat(halves), whole, rtol=1e-5, atol=1e-6)


def test_conditions_are_dropped_with_the_chance_that_was_asked_for() -> None:
    n = 4000
    label = torch.zeros(n, dtype=torch.long)
    cond = Cond({"label": label, "speaker": torch.ones(n, 2)}, nulls={"label": 9})
    objective = FlowMatching(drop_condition=0.25)
    batch, _ = objective.pair(Batch(x1=torch.zeros(n, 2), cond=cond), generator())
    dropped = batch.cond["label"] == 9
    assert float(dropped.float().mean()) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(dropped, batch.cond["speaker"].sum(1) == 0)  # dropped together
    only = FlowMatching(drop_condition=0.25, drop_names=["label"])
    batch, _ = only.pair(Batch(x1=torch.zeros(n, 2), cond=cond), generator())
    assert bool((batch.cond["speaker"] == 1).all())
    with pytest.raises(UserError, match="no condition to drop"):
        objective.pair(Batch(x1=torch.zeros(2, 2)), generator())


def test_a_coupling_pairs_before_the_condition_is_dropped() -> None:
    objective = FlowMatching(coupling=MinibatchOT(within="label"), drop_condition=0.9)
    label = torch.arange(32) % 2
    x1 = torch.randn(32, 2, generator=generator())
    cond = Cond({"label": label}, nulls={"label": 2})
    paired, _ = objective.pair(Batch(x1=x1, cond=cond), generator(1))
    x0 = objective.source.draw(x1, cond, generator(1))
    again = MinibatchOT(within="label").draw(Batch(x1=x1, x0=x0, cond=cond), None).batch.x0
    assert torch.equal(paired.x0, again)  # type: ignore[arg-type]
    assert not objective.independent_gaussian
    assert not objective.field(networks(objective)).independent_gaussian


def test_given_pairs_train_on_the_pairs_of_the_batch() -> None:
    x0, x1 = torch.randn(5, 2, generator=generator()), torch.randn(5, 2, generator=generator(1))
    batch, point, _, _ = FlowMatching(coupling=GivenPairs()).draw(Batch(x1=x1, x0=x0), generator())
    assert batch.x0 is x0
    torch.testing.assert_close(point.vt, x1 - x0)
    with pytest.raises(UserError, match="say coupling: GivenPairs"):
        FlowMatching().draw(Batch(x1=x1, x0=x0), generator())


def test_weights_of_the_time_law_multiply_the_loss() -> None:
    mixture = GaussianMixture.ring(radius=2.0)
    nets = Networks({"main": ExactNetwork(mixture)})
    x1 = GaussianMixture.ring().sample(40_000, generator())
    plain = FlowMatching(times=StratifiedTimes()).loss(nets, Batch(x1=x1), generator=generator(1)).total
    steep = FlowMatching(times=ImportanceTimes([1.0, 2.0, 4.0, 8.0]))
    weighted = steep.loss(nets, Batch(x1=x1), generator=generator(2)).total
    assert float(weighted) == pytest.approx(float(plain), rel=0.03)


def test_adaptive_times_learn_while_training_only() -> None:
    law = ImportanceTimes(adapt=True)
    objective = FlowMatching(times=law)
    nets = networks(objective)
    batch = Batch(x1=torch.randn(64, 2, generator=generator()))
    objective.loss(nets.eval(), batch, generator=generator())
    assert not bool(law.seen.any())
    objective.loss(nets.train(), batch, generator=generator())
    assert bool(law.seen.any())


def test_generate_solves_from_the_source_and_counts() -> None:
    mixture = GaussianMixture.ring()
    nets = Networks({"main": ExactNetwork(mixture)})
    like = torch.zeros(400, 2, dtype=torch.float64)
    sampler = Sampler(solver=Heun(), steps=20)
    out = FlowMatching().generate(nets, like, Cond(), sampler=sampler, generator=generator())
    assert out.network_calls.tolist() == [40] * 400
    assert float(mixture.log_prob(out.x).mean()) == pytest.approx(
        float(mixture.log_prob(mixture.sample(4000, generator())).mean()), abs=0.3
    )
    same = FlowMatching().generate(nets, like, Cond(), sampler=sampler, generator=generator())
    assert torch.equal(out.x, same.x)
    adaptive = Sampler(solver=DormandPrince(), controller=Tolerance(1e-6, 1e-6))
    x0 = torch.randn(50, 2, generator=generator(), dtype=torch.float64)
    there = FlowMatching().generate(nets, x0, Cond(), sampler=adaptive, x0=x0)
    assert int(there.network_calls.min()) < int(there.network_calls.max())
    back = FlowMatching().generate(nets, x0, Cond(), sampler=adaptive, x0=there.x, span=(1.0, 0.0))
    torch.testing.assert_close(back.x, x0, atol=1e-4, rtol=0)


def test_generate_honours_source_path_temperature_and_hooks() -> None:
    like = torch.zeros(2000, 1, dtype=torch.float64)
    still = Networks({"main": Still(NetworkSpec())})
    steps: list[int] = []
    out = FlowMatching(source=ScaledGaussian(scale=3.0)).generate(
        still,
        like,
        Cond(),
        sampler=Sampler(steps=3, temperature=0.5),
        generator=generator(),
        hooks=[lambda index, t, x, evaluation: steps.append(index)],
    )
    assert float(out.x.std()) == pytest.approx(1.5, rel=0.05)
    assert steps == [0, 1, 2, 3]
    path = VEPath(sigma_max=20.0)
    out = FlowMatching(path=path).generate(still, like, Cond(), sampler=Sampler(), generator=generator())
    assert float(out.x.std()) == pytest.approx(20.0, rel=0.05)


class Still(Network):
    """v = 0, or 1 where the label is the null one."""

    def forward(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        x = inputs[0]
        return {
            "v": torch.zeros_like(x) if "label" not in cond else (cond["label"] == 1).to(x.dtype)[:, None].expand_as(x)
        }


def test_guidance_counts_both_halves() -> None:
    like = torch.zeros(3, 1, dtype=torch.float64)
    cond = Cond({"label": torch.zeros(3, dtype=torch.long)}, nulls={"label": 1})
    sampler = Sampler(solver=Euler(), steps=4, guidance=ClassifierFree(scale=3.0))
    out = FlowMatching().generate(Networks({"main": Still(NetworkSpec())}), like, cond, sampler=sampler, x0=like)
    torch.testing.assert_close(out.x, torch.full_like(like, -2.0))  # 1 + 3 (0 - 1)
    assert out.evaluations.tolist() == [4] * 3
    assert out.network_calls.tolist() == [8] * 3


def test_what_cannot_be_honoured_is_refused_in_one_line() -> None:
    nets, like = Networks({"main": Still(NetworkSpec())}), torch.zeros(2, 1)
    with pytest.raises(UserError, match=r"from t = 0\.5 needs the state there"):
        FlowMatching().generate(nets, like, Cond(), sampler=Sampler(), span=(0.5, 1.0))
    with pytest.raises(UserError, match="leave it at 1"):
        FlowMatching().generate(nets, like, Cond(), sampler=Sampler(temperature=0.7), x0=like)
    with pytest.raises(UserError, match=r"ScorePrediction.*MinibatchOT"):
        FlowMatching(prediction=ScorePrediction(), coupling=MinibatchOT())
    with pytest.raises(UserError, match="drop_condition is a chance"):
        FlowMatching(drop_condition=1.0)
    with pytest.raises((UserError, TypeError)):  # shape and type checks of the test run may come first
        FlowMatching(reduce="men")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="needs data x1"):
        FlowMatching().loss(nets, Batch())


def test_objects_share_no_default_module() -> None:
    assert FlowMatching().coupling is not FlowMatching().coupling
