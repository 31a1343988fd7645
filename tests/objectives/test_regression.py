"""Plain regression: it learns the conditional mean, in one call; what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from jaxtyping import TypeCheckError

from flowkit.cond import Cond
from flowkit.couplings import Batch
from flowkit.errors import UserError
from flowkit.fields import ClassifierFree
from flowkit.nn.mlp import MLP
from flowkit.objectives import Networks, Regression
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.solver import Status
from flowkit.solvers.variance_adaptive import VarianceAdaptive


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def built(objective: Regression, **options: int) -> Networks:
    torch.manual_seed(0)
    return Networks.build(objective.needs(), lambda spec: MLP(spec, width=32, depth=2, vectors={"s": 1}, **options))


def cond(s: torch.Tensor, **options: torch.Tensor) -> Cond:
    return Cond({"s": s[:, None]}, **options)  # type: ignore[arg-type]


def test_it_learns_the_mean_of_two_modes_and_the_one_of_one() -> None:
    objective = Regression()
    nets = built(objective, dimension=2)
    optimiser = torch.optim.Adam(nets.parameters(), lr=1e-2)
    g = generator()
    for _ in range(400):
        s = 2 * torch.rand(256, generator=g) - 1
        side = 2.0 * torch.randint(2, (256,), generator=g) - 1
        x1 = torch.stack([s.square(), torch.where(s > 0, side, 0.5)], 1)
        optimiser.zero_grad()
        objective.loss(nets, Batch(x1=x1, cond=cond(s))).total.backward()
        optimiser.step()
    s = torch.tensor([-0.5, 0.5])
    with torch.no_grad():
        solution = objective.generate(nets, torch.zeros(2, 2), cond(s), sampler=Sampler())
    torch.testing.assert_close(solution.x, torch.tensor([[0.25, 0.5], [0.25, 0.0]]), atol=0.15, rtol=0)


def test_one_call_whatever_the_noise_and_the_steps() -> None:
    objective = Regression()
    nets = built(objective)
    s, like = torch.linspace(0, 1, 5), torch.zeros(5, 2)
    one = objective.generate(nets, like, cond(s), sampler=Sampler(steps=1), x0=torch.randn(5, 2))
    ten = objective.generate(nets, like + 7, cond(s), sampler=Sampler(steps=10), generator=generator())
    assert torch.equal(one.x, ten.x)
    for count in (ten.evaluations, ten.network_calls, ten.accepted):
        assert count.tolist() == [1] * 5
    assert ten.status.tolist() == [Status.OK] * 5
    assert ten.stopped_at.tolist() == [1.0] * 5
    assert ten.ok
    assert "arrived" in ten.explain(0)


@pytest.mark.parametrize("error", ["mse", "smooth_l1"])
def test_what_is_masked_counts_for_nothing(error: str) -> None:
    objective = Regression(error=error, beta=0.1)  # type: ignore[arg-type]
    nets = built(objective, dimension=4)
    x1, s = torch.randn(6, 4, generator=generator()), torch.linspace(0, 1, 6)
    keep = torch.arange(4) < torch.tensor([4, 3, 2, 1, 4, 2])[:, None]
    with torch.no_grad():
        predicted = nets.main((torch.zeros(6, 4),), (), cond(s))["x1"]
    difference = (predicted - x1).abs()
    each = difference.square()
    if error == "smooth_l1":
        each = torch.where(difference < 0.1, difference.square() / 0.2, difference - 0.05)
    expected = torch.stack([row[k].mean() for row, k in zip(each, keep, strict=True)])
    for filling in (0.0, math.nan):
        batch = Batch(x1=x1.masked_fill(~keep, filling), cond=cond(s), keep=keep)
        nets.zero_grad()
        loss = objective.loss(nets, batch)
        torch.testing.assert_close(loss.terms["regression"], expected)
        loss.total.backward()
        assert all(bool(p.grad.isfinite().all()) for p in nets.parameters() if p.grad is not None)
    weighed = objective.loss(nets, Batch(x1=x1, cond=cond(s), keep=keep, weight=torch.arange(6.0)))
    assert weighed.total.item() == pytest.approx((torch.arange(6.0) * expected).mean().item())


@pytest.mark.parametrize(
    ("sampler", "options", "words"),
    [
        (Sampler(guidance=ClassifierFree(2.0)), {}, "no use for guidance"),
        (Sampler(temperature=0.5), {}, r"no use for the temperature 0.5"),
        (Sampler(controller=VarianceAdaptive(0.1)), {}, "no use for the controller VarianceAdaptive"),
        (Sampler(), {"span": (0.5, 1.0)}, r"no use for the span 0.5 to 1"),
        (Sampler(), {"hooks": [print]}, "no use for hooks"),
    ],
)
def test_it_refuses_what_it_cannot_do(sampler: Sampler, options: dict, words: str) -> None:
    objective = Regression()
    with pytest.raises(UserError, match=words) as caught:
        objective.generate(built(objective), torch.zeros(2, 2), cond(torch.zeros(2)), sampler=sampler, **options)
    assert "\n" not in str(caught.value)


def test_it_has_no_field_and_says_so() -> None:
    objective = Regression()
    with pytest.raises(UserError, match="train FlowMatching"):
        objective.field(built(objective))
    with pytest.raises((UserError, TypeCheckError), match="smooth_l1"):
        Regression(error="mae")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="beta must be positive"):
        Regression(beta=0.0)
    with pytest.raises(UserError, match="needs data x1"):
        objective.loss(built(objective), Batch())
