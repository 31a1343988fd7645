"""c-rectified flow against closed forms: costs of Gaussian couplings by round, descent, gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from flowkit.cond import Cond
from flowkit.couplings import Batch, GivenPairs
from flowkit.errors import UserError
from flowkit.fields.convex_cost import ConvexCost, PowerCost, QuadraticCost, QuadraticForm
from flowkit.nn.mlp import MLP
from flowkit.nn.network import Network, NetworkSpec
from flowkit.objectives.c_rectified import CRectifiedFlow
from flowkit.objectives.objective import Networks
from flowkit.paths.trigonometric import TrigonometricPath
from flowkit.solvers.euler import Euler
from flowkit.solvers.sampler import Sampler
from flowkit.testing import JointGaussian

S0 = torch.diag(torch.tensor([4.0, 0.25], dtype=torch.float64))
EYE = torch.eye(2, dtype=torch.float64)


def turn(degrees: float) -> Tensor:
    angle = math.radians(degrees)
    return torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)


S1 = turn(45) @ S0 @ turn(45).T


def next_map(law: JointGaussian, form: Tensor | None, *, restricted: bool, steps: int = 60) -> Tensor:
    """A with Z1 = A Z0: RK4 on dA/dt = M_t A."""

    t = torch.arange(2 * steps + 1, dtype=torch.float64) / (2 * steps)
    field = law.gradient_matrix(t, form) if restricted else law.matrix(t)
    a, h = EYE.clone(), 1.0 / steps
    for i in range(steps):
        first, middle, last = field[2 * i : 2 * i + 3]
        k1 = first @ a
        k2 = middle @ (a + 0.5 * h * k1)
        k3 = middle @ (a + 0.5 * h * k2)
        a = a + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + last @ (a + h * k3))
    return a


def rounds(law: JointGaussian, n: int, form: Tensor | None = None, *, restricted: bool) -> list[Tensor]:
    maps = []
    for _ in range(n):
        maps.append(next_map(law, form, restricted=restricted))
        law = JointGaussian(law.source, maps[-1] @ law.source @ maps[-1].T, law.source @ maps[-1].T)
    return maps


def cost(a: Tensor, form: Tensor = EYE) -> float:
    return float(torch.trace(form @ (a - EYE) @ S0 @ (a - EYE).T))


def root(s: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(s)
    return vectors * values.sqrt() @ vectors.T


def test_plain_reflow_of_these_gaussians_is_stuck():
    law = JointGaussian(S0, S1, torch.zeros(2, 2, dtype=torch.float64))
    assert [cost(a) for a in rounds(law, 3, restricted=False)] == pytest.approx([3.381572] * 3, abs=2e-6)


def test_restricted_to_gradients_the_cost_falls_to_the_optimum():
    law = JointGaussian(S0, S1, torch.zeros(2, 2, dtype=torch.float64))
    maps = rounds(law, 5, restricted=True)
    expected = [1.900640, 1.858394, 1.857361, 1.857336, 1.857335]
    assert [cost(a) for a in maps] == pytest.approx(expected, abs=2e-6)
    middle = torch.linalg.inv(root(S0)) @ root(root(S0) @ S1 @ root(S0)) @ torch.linalg.inv(root(S0))
    errors = [float((a - middle).norm()) for a in maps]
    assert errors[1] / errors[2] == pytest.approx(6.3, abs=0.4)
    for a in maps:  # the law of the ends stays
        assert torch.allclose(a @ S0 @ a.T, S1, atol=1e-6)


def test_a_rotation_is_undone_in_one_round_where_plain_reflow_keeps_it():
    law = JointGaussian(EYE, EYE, turn(60).T)
    assert torch.allclose(next_map(law, None, restricted=False), turn(60), atol=1e-6)
    assert torch.allclose(next_map(law, None, restricted=True), EYE, atol=1e-6)


def test_a_quadratic_form_leads_to_its_own_optimal_map():
    form = torch.tensor([[2.0, 0.6], [0.6, 0.8]], dtype=torch.float64)
    law = JointGaussian(S0, S1, torch.zeros(2, 2, dtype=torch.float64))
    maps = rounds(law, 12, form, restricted=True)
    costs = [cost(a, form) for a in maps]
    assert all(after <= before + 1e-9 for before, after in pairwise(costs))
    # With y = H^(1/2) x the cost is the plain one: the optimum is known.
    h = root(form)
    u0, u1 = h @ S0 @ h, h @ S1 @ h
    best = float(torch.trace(u0 + u1 - 2.0 * root(root(u0) @ u1 @ root(u0))))
    assert costs[-1] == pytest.approx(best, abs=1e-5)


class Linear(Network):
    """net(x, t) = P_t x / 2, so that the potential <x, net> is x^T P_t x / 2."""

    def __init__(self, law: JointGaussian, scale: float = 1.0) -> None:
        super().__init__(NetworkSpec())
        self.law, self.scale = law, torch.nn.Parameter(torch.tensor(scale, dtype=torch.float64))

    def forward(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        p = self.scale * self.law.gradient_matrix(times[0].double())
        return {"v": 0.5 * torch.einsum("bij,bj->bi", p, inputs[0])}


def test_the_loss_closes_the_descent_identity_and_is_stationary_at_the_projected_field():
    law = JointGaussian(S0, S1, torch.zeros(2, 2, dtype=torch.float64))
    objective, networks = CRectifiedFlow(coupling=GivenPairs()), Networks({"main": Linear(law)})
    generator = torch.Generator().manual_seed(0)
    x0, x1 = law.sample(30_000, generator)
    loss = objective.loss(networks, Batch(x1=x1, x0=x0), generator=generator).total
    loss.backward()
    scale = networks.main.scale.grad  # pyright: ignore[reportAttributeAccessIssue]
    measured = 2.0 * float(loss.detach())  # the loss is the mean over two elements
    t = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    m = law.gradient_matrix(t)
    speed = 0.5 * float(torch.einsum("bij,bjk,bik->b", m, law.covariance(t), m).mean())
    ends = 0.5 * cost(next_map(law, None, restricted=True))
    before = 0.5 * float(torch.trace(S0 + S1))
    assert measured == pytest.approx(before - speed, rel=0.02)  # E c(X1 - X0) - E c(Z1 - Z0) - S_c
    assert speed - ends > 0.0  # S_c
    assert abs(float(scale)) < 0.02 * before  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "kind", [QuadraticCost(), PowerCost(4.0), PowerCost(1.5), QuadraticForm([[2.0, 0.5], [0.5, 1.0]])]
)
def test_a_cost_and_its_conjugate(kind: ConvexCost):
    x = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    assert float(kind.gap(y, x).min().detach()) > 0.0
    best = kind.conjugate_gradient(y)
    assert torch.allclose(kind.gap(y, best), torch.zeros(64, dtype=torch.float64), atol=1e-9)
    (gradient,) = torch.autograd.grad(kind.conjugate(y).sum(), y)
    assert torch.allclose(gradient, best, atol=1e-9)


@pytest.fixture
def trained() -> tuple[CRectifiedFlow, Networks]:
    torch.manual_seed(0)
    objective = CRectifiedFlow()
    return objective, Networks.build(objective.needs(), lambda spec: MLP(spec, width=32, depth=2)).double()


def test_the_velocity_is_a_gradient_also_where_gradients_are_off(trained: tuple[CRectifiedFlow, Networks]):
    objective, networks = trained
    field = objective.field(networks)
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    t = torch.full((5,), 0.4, dtype=torch.float64)
    rows = [torch.autograd.functional.jacobian(lambda z: field(z[None], t[:1]).v[0], row) for row in x]
    jacobian = torch.stack(rows)  # pyright: ignore[reportArgumentType]
    assert float((jacobian - jacobian.mT).abs().max()) < 1e-6
    assert float(jacobian.abs().max()) > 1e-2
    with_graph = field(x, t).v
    with torch.no_grad():
        assert torch.allclose(field(x, t).v, with_graph, atol=1e-14)
        assert not field(x, t).v.requires_grad
        made = objective.generate(networks, x, Cond(), sampler=Sampler(solver=Euler(), steps=3), x0=x).x
    with torch.inference_mode():
        inside = x.clone()
        again = objective.generate(networks, inside, Cond(), sampler=Sampler(steps=3), x0=inside).x
        assert torch.allclose(again, made, atol=1e-14)


def test_padding_neither_counts_nor_moves(trained: tuple[CRectifiedFlow, Networks]):
    objective, networks = trained
    x1 = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    mask = torch.tensor([[True, False]]).expand(6, 2)
    losses = []
    for hidden in (torch.nan, 7.0):
        data = x1.where(mask, hidden)
        batch = Batch(x1=data, cond=Cond(padding=mask))
        losses.append(float(objective.loss(networks, batch, generator=torch.Generator().manual_seed(5)).total.detach()))
    assert losses[0] == losses[1]
    assert math.isfinite(losses[0])
    v = objective.field(networks)(x1, torch.full((6,), 0.3, dtype=torch.float64), Cond(padding=mask)).v
    assert float(v[:, 1].abs().max()) == 0.0


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UserError, match="straight lines"):
        CRectifiedFlow(path=TrigonometricPath())
    with pytest.raises(UserError, match="positive definite"):
        QuadraticForm([[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(UserError, match="above 1"):
        PowerCost(1.0)
