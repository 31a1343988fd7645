"""Consistency flow matching: its two limits, its fixed point, what carries gradients, targets, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor, nn

from flowkit.cond import Cond
from flowkit.couplings import Batch, GivenPairs
from flowkit.errors import UserError
from flowkit.fields import DataPrediction
from flowkit.nn.mlp import MLP
from flowkit.nn.network import Network, NetworkSpec
from flowkit.objectives import ConsistencyFM, FlowMatching, Networks
from flowkit.paths import TrigonometricPath
from flowkit.random import Rows
from flowkit.solvers.controllers import Tolerance
from flowkit.solvers.dormand_prince import DormandPrince
from flowkit.solvers.midpoint import Midpoint
from flowkit.solvers.sampler import Sampler
from flowkit.tensors import like
from flowkit.times import SegmentGrid, Segments

SCALE = 2.0


def built(objective: FlowMatching, dtype: torch.dtype = torch.float64) -> Networks:
    torch.manual_seed(0)
    return Networks.build(objective.needs(), lambda spec: MLP(spec, width=16, depth=2)).to(dtype)


def data(n: int = 64, seed: int = 1) -> Batch:
    return Batch(x1=torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


class ExactMap(Network):
    """v = (Phi_{t to S(t)}(x) - x) / (S - t) for x0 ~ N(0, 1), x1 ~ N(0, SCALE^2), independent, on the linear path."""

    def __init__(self, spec: NetworkSpec, segments: Segments) -> None:
        super().__init__(spec)
        self.segments, self.level = segments, nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        x, t = inputs[0], times[0]
        end = self.segments.end(t)

        def width(u: Tensor) -> Tensor:
            return ((1 - u) ** 2 + (SCALE * u) ** 2).sqrt()

        return {"v": x * like((width(end) / width(t) - 1) / (end - t).clamp_min(1e-12), x) + self.level}


def exact(objective: ConsistencyFM) -> Networks:
    return Networks.build(objective.needs(), lambda spec: ExactMap(spec, objective.segments))


@pytest.mark.parametrize("segments", [1, 2, [0.0, 0.3, 1.0]])
def test_anchored_everywhere_it_is_weighted_flow_matching(segments: int | list[float]) -> None:
    objective = ConsistencyFM(segments=segments, boundary=0.0)
    networks, plain = built(objective), FlowMatching()
    terms = objective.loss(networks, data(), generator=Rows(3, 0, 64)).terms
    assert set(terms) == {"flow"}
    _, point, _, _ = plain.draw(data(), Rows(3, 0, 64))
    expected = plain.loss(networks, data(), generator=Rows(3, 0, 64)).terms["flow"]
    weight = (Segments(segments).end(point.t) - point.t) ** 2
    torch.testing.assert_close(terms["flow"], weight * expected, rtol=1e-12, atol=1e-14)
    # The same as the distance of the ends, as the paper writes it.
    f = (
        point.xt
        + like(objective.segments.end(point.t) - point.t, point.xt)
        * networks.main((point.xt,), (point.t,), Cond())["v"]
    )
    ends = plain.path.at(point.x0, point.x1, objective.segments.end(point.t)).xt
    torch.testing.assert_close(terms["flow"], (f - ends).square().mean(1), rtol=1e-9, atol=1e-12)


def test_the_second_stage_is_the_paper_s_loss() -> None:
    objective = ConsistencyFM(segments=2, delta=0.03, alpha=0.5, boundary=0.9)
    networks = built(objective)
    loss = objective.loss(networks, data(256), generator=Rows(3, 0, 256))
    _, point, _, _ = objective.draw(data(256), Rows(3, 0, 256))
    t, path = point.t, objective.path
    end = torch.where(t < 0.5, 0.5, 1.0).to(t)
    r = torch.minimum(t + 0.03, end)

    def v(x: Tensor, s: Tensor) -> Tensor:
        return networks.main((x,), (s,), Cond())["v"]

    xr = path.at(point.x0, point.x1, r).xt
    f = point.xt + like(end - t, xr) * v(point.xt, t)
    fr = torch.where(like(r, xr) >= 0.9, path.at(point.x0, point.x1, end).xt, xr + like(end - r, xr) * v(xr, r))
    torch.testing.assert_close(loss.terms["flow"], (f - fr).square().mean(1), rtol=1e-8, atol=1e-12)
    pull = 0.5 * (v(point.xt, t) - v(xr, r)).square().mean(1)
    dropped = (r >= 0.9) | (end - t <= 1.01 * 0.03)
    assert bool(dropped.any())
    torch.testing.assert_close(loss.terms["velocity"], pull.where(~dropped, torch.zeros_like(pull)))


def test_no_gradient_goes_through_the_target() -> None:
    own, other = ConsistencyFM(delta=0.05, alpha=1.0), ConsistencyFM(delta=0.05, alpha=1.0, target="ema")
    networks, with_target = built(own), built(other)
    own.loss(networks, data(), generator=Rows(3, 0, 64)).total.backward()
    other.loss(with_target, data(), generator=Rows(3, 0, 64)).total.backward()
    assert all(p.grad is None and not p.requires_grad for p in with_target["target"].parameters())
    # The copy has the same weights: a gradient through the target would make the two differ.
    for a, b in zip(networks.main.parameters(), with_target.main.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=0)


class OnlyDropout(Network):
    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec)
        self.weight, self.dropout = nn.Parameter(torch.ones(2, dtype=torch.float64)), nn.Dropout(0.5)

    def forward(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        return {"v": self.dropout(self.weight.expand_as(inputs[0]))}


@pytest.mark.parametrize("target", ["self", "ema"])
def test_both_calls_drop_the_same_units_and_the_global_generator_moves_once(target: str) -> None:
    objective = ConsistencyFM(segments=1, delta=0.05, alpha=1.0, target=target)  # type: ignore[arg-type]
    networks = Networks.build(objective.needs(), OnlyDropout)
    torch.manual_seed(5)
    terms = objective.loss(networks, data(), generator=Rows(3, 0, 64)).terms
    assert float(terms["velocity"].detach().abs().max()) == 0.0
    after = torch.rand(3)
    torch.manual_seed(5)
    networks.main((torch.zeros(64, 2, dtype=torch.float64),), (), Cond())
    assert torch.equal(after, torch.rand(3))


def test_the_residual_of_the_exact_map_falls_with_the_square_of_delta() -> None:
    def residual(delta: float) -> float:
        objective = ConsistencyFM(segments=2, delta=delta, alpha=0.0, boundary=1.0)
        batch = Batch(
            x1=SCALE * torch.randn(20_000, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        )
        return float(objective.loss(exact(objective), batch, generator=Rows(4, 0, 20_000)).total.detach())

    errors = [residual(delta) for delta in (0.02, 0.01, 0.005)]
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.1)
    assert errors[2] < 2e-4


@pytest.mark.parametrize("segments", [1, 3, [0.0, 0.2, 1.0]])
def test_a_step_for_each_segment_is_exact_at_the_fixed_point(segments: int | list[float]) -> None:
    objective = ConsistencyFM(segments=segments)
    count = len(objective.segments)
    x0 = torch.randn(10, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sampler = Sampler(steps=count, grid=SegmentGrid(segments))
    with torch.no_grad():
        solution = objective.generate(exact(objective), x0, Cond(), sampler=sampler, x0=x0)
    torch.testing.assert_close(solution.x, SCALE * x0, rtol=1e-12, atol=1e-12)
    assert solution.network_calls.tolist() == [count] * 10


def test_stages_change_with_the_step() -> None:
    objective = ConsistencyFM(anchored_steps=5, boundary=0.7)
    assert [objective.boundary_at(step) for step in (0, 4, 5, 100)] == [0.0, 0.0, 0.7, 0.7]
    networks = built(objective)
    terms = [set(objective.loss(networks, data(), step=step, generator=Rows(1, 0, 64)).terms) for step in (4, 5)]
    assert terms == [{"flow"}, {"flow", "velocity"}]


def test_the_target_follows_the_network() -> None:
    objective = ConsistencyFM(target="ema", target_decay=0.9)
    networks = built(objective)
    main, target = networks.main.first.weight, networks["target"].first.weight  # type: ignore[union-attr]
    assert torch.equal(main, target)
    with torch.no_grad():
        main.add_(1.0)
    before = target.clone()
    objective.after_step(networks, 10_000)
    torch.testing.assert_close(target, before + 0.1 * (main - before))
    assert "networks" not in objective.state_dict()
    assert "by_name.target.first.weight" in networks.state_dict()


def test_a_target_that_is_not_finite_shows_in_the_loss() -> None:
    objective = ConsistencyFM(target="ema", delta=0.05)
    networks = built(objective)
    with torch.no_grad():
        next(networks["target"].parameters()).fill_(float("nan"))
    assert not bool(objective.loss(networks, data(), generator=Rows(1, 0, 64)).total.isfinite())


def test_padding_is_neither_seen_nor_counted() -> None:
    objective = ConsistencyFM(delta=0.05)
    networks = built(objective)
    padding = torch.tensor([[True, False]]).expand(8, 2)
    batch = data(8)
    poisoned = Batch(x1=batch.x1.where(padding, torch.nan), cond=Cond(padding=padding))  # type: ignore[union-attr]
    zeroed = Batch(x1=batch.x1.where(padding, 0.0), cond=Cond(padding=padding))  # type: ignore[union-attr]
    a, b = (objective.loss(networks, x, generator=Rows(1, 0, 8)).total for x in (poisoned, zeroed))
    assert bool(a.isfinite())
    assert torch.equal(a, b)


def test_it_trains_on_pairs() -> None:
    objective = ConsistencyFM(coupling=GivenPairs())
    batch = data().replace(x0=data(64, 9).x1)
    assert bool(objective.loss(built(objective), batch, generator=Rows(1, 0, 64)).total.isfinite())


@pytest.mark.parametrize(
    ("sampler", "span", "message"),
    [
        (Sampler(solver=Midpoint(), steps=2), (0.0, 1.0), "set sampler.solver: Euler"),
        (Sampler(steps=3), (0.0, 1.0), r"3 steps on UniformGrid\(\) steps over the segment boundary t = 0.5"),
        (Sampler(steps=1), (0.0, 1.0), "steps over the segment boundary"),
        (Sampler(solver=DormandPrince(), controller=Tolerance()), (0.0, 1.0), "Euler"),
        (Sampler(steps=2), (1.0, 0.0), "a span that rises"),
    ],
)
def test_samplers_that_it_cannot_honour_are_refused(sampler: Sampler, span: tuple[float, float], message: str) -> None:
    objective, x = ConsistencyFM(), torch.zeros(2, 2, dtype=torch.float64)
    with pytest.raises(UserError, match=message):
        objective.generate(built(objective), x, Cond(), sampler=sampler, span=span, x0=x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segments": [0.0, 0.7, 0.5, 1.0]}, "rise from 0 to 1"),
        ({"delta": 0.0}, "delta"),
        ({"boundary": 1.5}, "boundary"),
        ({"target": "teacher"}, "target"),
        ({"prediction": DataPrediction()}, "LinearPath and Velocity"),
        ({"path": TrigonometricPath()}, "LinearPath and Velocity"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises((UserError, TypeCheckError), match=message):
        ConsistencyFM(**options)  # type: ignore[arg-type]


def test_scores_may_not_be_read_off_it() -> None:
    objective = ConsistencyFM()
    assert not objective.field(built(objective)).independent_gaussian
