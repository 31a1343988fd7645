"""AdaFlow's loss: its optimum and gradient, who learns from what, masks, units; its field, sampling and counts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor, nn

from flowkit.cond import Cond
from flowkit.couplings import Batch
from flowkit.errors import UserError
from flowkit.fields import ClassifierFree, DataPrediction, NoisePrediction, Velocity
from flowkit.fields.predictions import Prediction
from flowkit.nn.mlp import MLP
from flowkit.nn.network import Network, NetworkSpec
from flowkit.objectives import AdaFlow, FlowMatching, Networks
from flowkit.objectives.ada_flow import HIGHEST, LOWEST, spread_loss
from flowkit.random import Rows
from flowkit.solvers.euler import Euler
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.variance_adaptive import VarianceAdaptive
from flowkit.testing import GaussianMixture
from flowkit.times import UniformTimes


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def built(objective: AdaFlow, **options: object) -> Networks:
    torch.manual_seed(0)
    options = {"width": 32, "depth": 2, **options}
    return Networks.build(objective.needs(), lambda spec: MLP(spec, **options))  # type: ignore[arg-type]


class Known(Network):
    """Answers with the oracle of a mixture; the spread is a constant that can be learnt."""

    def __init__(self, spec: NetworkSpec, mixture: GaussianMixture, prediction: Prediction) -> None:
        super().__init__(spec)
        self.answer = {Velocity: mixture.velocity, DataPrediction: mixture.data, NoisePrediction: mixture.noise}[
            type(prediction)
        ]
        self.level = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        return {"v": self.answer(inputs[0], times[0]), "log_sigma": self.level.expand(len(inputs[0]))}


def test_the_gradient_of_the_spread_is_one_minus_the_scaled_square() -> None:
    square = torch.rand(200, generator=generator(), dtype=torch.float64) * 9
    level = torch.linspace(-3, 3, 200, dtype=torch.float64).requires_grad_()
    loss = spread_loss(square, level)
    torch.testing.assert_close(loss, square / (2 * (2 * level).exp()) + level)
    (gradient,) = torch.autograd.grad(loss.sum(), level)
    torch.testing.assert_close(gradient, 1 - square * (-2 * level).exp(), rtol=1e-6, atol=1e-6)
    # Least at the log of the root.
    best = torch.autograd.grad(spread_loss(square, root := square.sqrt().log().requires_grad_()).sum(), root)[0]
    assert float(best.abs().max()) < 1e-12


def test_outside_of_its_bounds_the_spread_is_led_back_whatever_the_residual() -> None:
    for square in (0.0, 1.0, 1e9):
        level = torch.tensor([-1e4, LOWEST - 1, HIGHEST + 1, 1e4], requires_grad=True)
        loss = spread_loss(torch.full((4,), square), level)
        loss.sum().backward()
        assert level.grad is not None
        assert bool(loss.isfinite().all())
        assert (level.grad[:2] < 0).all()
        assert (level.grad[2:] > 0).all()
    assert spread_loss(torch.ones(1), torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("prediction", [Velocity(), DataPrediction(), NoisePrediction()])
def test_the_optimum_is_the_root_mean_square_residual_per_element(prediction: Prediction) -> None:
    """Against the oracle's conditional variance of the velocity, which is summed over elements."""
    mixture, n, d = GaussianMixture.ring(), 40_000, 2
    at = 0.4
    objective = AdaFlow(prediction=prediction, times=UniformTimes(at, at + 1e-6))
    nets = Networks.build(objective.needs(), lambda spec: Known(spec, mixture, prediction))
    level = nets.main.level
    for _ in range(12):  # Newton: the second derivative is 2 r^2 exp(-2 l)
        loss = objective.loss(nets, Batch(x1=mixture.sample(n, generator())), generator=generator(1))
        (slope,) = torch.autograd.grad(loss.total, level)
        level.data -= (slope / (2 * (1 - slope)).clamp_min(0.5)).clamp(-0.5, 0.5)
    assert abs(float(slope)) < 1e-3
    # In units of the velocity, which the field returns.
    t = torch.full((n,), at, dtype=torch.float64)
    x = mixture.sample_at(t, generator(2))
    told = objective.field(nets)(x, t).heads["log_sigma"]
    true = (mixture.velocity_variance(x, t).mean() / d).sqrt().log()
    torch.testing.assert_close(told, true.expand(n), rtol=0, atol=0.02)


@pytest.mark.parametrize("variance", ["shared", "separate"])
@pytest.mark.parametrize("joint", [False, True])
def test_who_learns_from_the_spread(variance: str, joint: bool) -> None:
    objective = AdaFlow(variance=variance, joint=joint)  # type: ignore[arg-type]
    nets = built(objective, vectors={"s": 3})
    source = torch.randn(16, 3, generator=generator(3), requires_grad=True)  # what an encoder would give
    batch = Batch(x1=torch.randn(16, 2, generator=generator()), cond=Cond({"s": source}))
    loss = objective.loss(nets, batch, generator=Rows(3, 0, 16))
    loss.terms["variance"].mean().backward(retain_graph=True)
    velocity = {"main.heads.v.weight": nets.main.heads["v"].weight, "main.first.weight": nets.main.first.weight}
    reached = {name: parameter.grad is not None for name, parameter in velocity.items()}
    assert set(reached.values()) == {joint}
    assert (source.grad is not None) == joint
    heads = nets.main.heads["log_sigma"] if variance == "shared" else nets["variance"].heads["log_sigma"]
    assert all(parameter.grad is not None for parameter in heads.parameters())
    nets.zero_grad()
    if not joint:
        # The velocity is trained exactly as flow matching alone trains it.
        loss.total.backward()
        plain = FlowMatching()
        alone = Networks({"main": MLP(NetworkSpec(), width=32, depth=2, vectors={"s": 3})})
        alone.main.load_state_dict({k: v for k, v in nets.main.state_dict().items() if "log_sigma" not in k})
        expected = plain.loss(alone, batch, generator=Rows(3, 0, 16))
        expected.total.backward()
        torch.testing.assert_close(loss.terms["flow"], expected.terms["flow"])
        for name, parameter in alone.main.named_parameters():
            torch.testing.assert_close(nets.main.get_parameter(name).grad, parameter.grad)


def test_the_joint_loss_is_the_paper_s_alone() -> None:
    objective = AdaFlow(joint=True)
    nets = built(objective)
    loss = objective.loss(nets, Batch(x1=torch.randn(8, 2, generator=generator())), generator=Rows(1, 0, 8))
    assert loss.total.item() == pytest.approx(loss.terms["variance"].mean().item())
    assert not loss.terms["flow"].requires_grad
    parts = AdaFlow().loss(nets, Batch(x1=torch.randn(8, 2, generator=generator())), generator=Rows(1, 0, 8))
    assert parts.total.item() == pytest.approx((parts.terms["flow"] + parts.terms["variance"]).mean().item())


def test_masked_and_padded_elements_count_for_nothing() -> None:
    objective = AdaFlow()
    nets = built(objective, dimension=4)
    x1 = torch.randn(6, 4, generator=generator())
    padding = torch.arange(4) < torch.tensor([4, 3, 2, 1, 4, 2])[:, None]
    keep = (torch.arange(4) != 1).expand(6, 4)
    results = []
    for filling in (0.0, math.nan):
        nets.zero_grad()
        batch = Batch(x1=x1.masked_fill(~padding, filling), cond=Cond(padding=padding), keep=keep)
        loss = objective.loss(nets, batch, generator=Rows(3, 0, 6))
        loss.total.backward()
        results.append((loss.terms["variance"], *[p.grad.clone() for p in nets.parameters()]))  # type: ignore[union-attr]
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
    # A mean over what is kept, not a sum: the same spread however long the sample.
    long = AdaFlow()
    wide = Known(long.needs()["main"], GaussianMixture([1.0], [[0.0] * 50], 1.0), Velocity())
    term = long.loss(
        Networks({"main": wide}),
        Batch(x1=torch.randn(2000, 50, generator=generator(), dtype=torch.float64)),
        generator=generator(1),
    ).terms["variance"]
    # v explains nothing of x1 - x0 but what x_t tells: the residual per element is 1 on average over t of
    # 1 / (t^2 + (1 - t)^2), whose mean is pi / 2.
    assert term.mean().item() == pytest.approx(math.pi / 4, rel=0.03)


def test_weights_of_samples_weigh_both_terms() -> None:
    objective = AdaFlow()
    nets, x1 = built(objective), torch.randn(8, 2, generator=generator())
    weight = torch.arange(8.0)
    plain = objective.loss(nets, Batch(x1=x1), generator=Rows(1, 0, 8)).terms
    weighed = objective.loss(nets, Batch(x1=x1, weight=weight), generator=Rows(1, 0, 8)).terms
    for name in ("flow", "variance"):
        torch.testing.assert_close(weighed[name], weight * plain[name])


@pytest.mark.parametrize(("variance", "calls"), [("shared", 1), ("separate", 2)])
def test_a_second_network_is_a_second_call(variance: str, calls: int) -> None:
    objective = AdaFlow(variance=variance)  # type: ignore[arg-type]
    nets = built(objective, labels={"label": 4})
    cond = Cond({"label": torch.arange(4).repeat(5)}, nulls={"label": 4})
    like = torch.zeros(20, 2)
    sampler = Sampler(solver=Euler(), controller=VarianceAdaptive(0.3, 6))
    with torch.no_grad():
        solution = objective.generate(nets, like, cond, sampler=sampler, generator=generator())
        assert solution.ok
        assert torch.equal(solution.network_calls, calls * solution.evaluations)
        assert int(solution.evaluations.max()) <= 6
        guided = Sampler(solver=Euler(), controller=VarianceAdaptive(0.3, 6), guidance=ClassifierFree(2.0))
        both = objective.generate(nets, like, cond, sampler=guided, generator=generator())
        assert torch.equal(both.network_calls, 2 * calls * both.evaluations)
        # The same draws, for fixed steps too.
        fixed = objective.generate(nets, like, cond, sampler=Sampler(steps=3), generator=generator())
    assert fixed.network_calls.tolist() == [3 * calls] * 20


def test_the_field_holds_the_spread_inside_its_bounds_and_knows_its_path() -> None:
    objective = AdaFlow(prediction=DataPrediction())
    nets = built(objective)
    nets.main.heads["log_sigma"][-1].bias.data.fill_(-50.0)
    field = objective.field(nets)
    assert field.path is objective.path
    assert field.independent_gaussian
    t = torch.tensor([0.0, 0.5, 1.0])
    told = field(torch.zeros(3, 2), t).heads["log_sigma"]
    assert told[:2].tolist() == pytest.approx([LOWEST, LOWEST + math.log(2)])
    assert told[2] == math.inf  # at t = 1 the data hold no velocity: the smallest step


def test_what_it_cannot_be() -> None:
    with pytest.raises((UserError, TypeCheckError), match="shared"):
        AdaFlow(variance="both")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="drop_condition"):
        AdaFlow(drop_condition=2.0)
