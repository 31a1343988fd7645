"""Learned couplings: KL against torch's, gradients through both ways, the independent limit, moments, refusals."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from flowkit.cond import Cond
from flowkit.couplings import Batch, LearnedCoupling
from flowkit.errors import UserError
from flowkit.fields import ScorePrediction
from flowkit.nn.mlp import MLP
from flowkit.nn.network import Network, NetworkSpec
from flowkit.objectives import AdaFlow, FlowMatching, Networks
from flowkit.random import Rows
from flowkit.sources import DiagonalGaussian, Gaussian, ScaledGaussian, Source
from flowkit.tensors import sum_per_sample

DTYPE = torch.float64
N = 64


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


class Encoder(Network):
    """Answers with given moments, or leans on the data."""

    def __init__(self, spec: NetworkSpec, mean: Tensor | None = None, log_variance: Tensor | None = None) -> None:
        super().__init__(spec)
        self.mean, self.log_variance = mean, log_variance
        self.slope = nn.Parameter(torch.tensor(0.3, dtype=DTYPE))
        self.level = nn.Parameter(torch.tensor(-0.4, dtype=DTYPE))

    def forward(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        assert len(times) == 0
        x = inputs[0]
        mean = self.slope * x if self.mean is None else self.mean
        log_variance = self.level + 0.1 * x if self.log_variance is None else self.log_variance
        return {"mean": mean, "log_variance": log_variance}


def networks(objective: FlowMatching, **given: Tensor) -> Networks:
    torch.manual_seed(0)

    def build(spec: NetworkSpec) -> Network:
        if any(head.name == "mean" for head in spec.heads):
            assert (spec.inputs, spec.times) == (1, 0)
            return Encoder(spec, **given)
        return MLP(spec, width=16, depth=2).to(DTYPE)

    return Networks.build(objective.needs(), build)


class WithoutMoments(Source):
    """The standard normal, which does not say so."""

    def draw(self, like: Tensor, cond: Cond, generator: object, *, temperature: float = 1.0) -> Tensor:
        return torch.zeros_like(like)

    def log_prob(self, x0: Tensor, cond: Cond) -> Tensor:
        return sum_per_sample(Normal(0.0, 1.0).log_prob(x0))


@pytest.mark.parametrize("kind", ["standard", "scaled", "diagonal"])
def test_the_kl_is_that_of_torch_s_distributions(kind: str) -> None:
    x1, mean, log_variance = (draws(N, 3, seed=k) for k in range(3))
    centre, scale = draws(N, 3, seed=7), draws(N, 3, seed=8).exp()
    source, law = {
        "standard": (Gaussian(), Normal(torch.zeros(3, dtype=DTYPE), 1.0)),
        "scaled": (ScaledGaussian(2.5, mean=1.0), Normal(torch.ones(3, dtype=DTYPE), 2.5)),
        "diagonal": (DiagonalGaussian("m", "s"), Normal(centre, scale)),
    }[kind]
    cond = Cond({"m": centre, "s": scale})
    objective = FlowMatching(source=source, coupling=LearnedCoupling(beta=3.0))
    nets = networks(objective, mean=mean, log_variance=log_variance)
    batch, terms = objective.pair(Batch(x1=x1, cond=cond), Rows(1, 0, N), nets)
    # The encoder answers in units of the source.
    q = Normal(law.mean + law.stddev * mean, law.stddev * (0.5 * log_variance).exp())
    torch.testing.assert_close(terms["kl"], 3.0 * kl_divergence(q, law).mean(1))
    # x0 is a draw of q whose noise is the draw of the source.
    given = source.draw(x1, cond, Rows(1, 0, N))
    torch.testing.assert_close((batch.x0 - q.mean) / q.stddev, (given - law.mean) / law.stddev)


def test_a_law_without_moments_gets_an_unbiased_estimate() -> None:
    n = 20_000
    mean, log_variance = torch.full((n, 2), 0.5, dtype=DTYPE), torch.full((n, 2), -0.7, dtype=DTYPE)
    objective = FlowMatching(source=WithoutMoments(), coupling=LearnedCoupling(beta=1.0))
    _, terms = objective.pair(
        Batch(x1=draws(n, 2)), Rows(1, 0, n), networks(objective, mean=mean, log_variance=log_variance)
    )
    expected = kl_divergence(Normal(0.5, torch.tensor(-0.35).exp()), Normal(0.0, torch.tensor(1.0)))
    assert float(terms["kl"].mean()) == pytest.approx(float(expected), abs=0.01)


@pytest.mark.parametrize("kind", [FlowMatching, AdaFlow])
def test_the_encoder_s_gradient_is_that_of_the_whole_expression(kind: type[FlowMatching]) -> None:
    objective = kind(coupling=LearnedCoupling(beta=2.0))
    nets, x1 = networks(objective), draws(N, 2)
    encoder = nets["encoder"]
    objective.loss(nets, Batch(x1=x1), generator=Rows(1, 0, N)).total.backward()
    found = [p.grad.clone() for p in encoder.parameters()]  # type: ignore[union-attr]

    plain = FlowMatching()
    _, point, _, _ = plain.draw(Batch(x1=x1), Rows(1, 0, N))

    def expression(detach: bool) -> Tensor:
        mean, log_variance = encoder((x1,), (), Cond()).values()
        x0 = mean + (0.5 * log_variance).exp() * point.x0
        t = point.t[:, None]
        xt = (1 - t) * x0 + t * x1
        v = nets.main((xt.detach() if detach else xt,), (point.t,), Cond())["v"]
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)
        return (v - (x1 - x0)).square().mean() + 2.0 * kl.mean()

    whole = torch.autograd.grad(expression(False), list(encoder.parameters()))
    halved = torch.autograd.grad(expression(True), list(encoder.parameters()))
    for a, b, c in zip(found, whole, halved, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
        assert abs(float(a - c)) > 1e-3


def test_an_encoder_of_the_source_is_the_independent_coupling() -> None:
    zeros, x1 = torch.zeros(N, 2, dtype=DTYPE), draws(N, 2)
    learned, plain = FlowMatching(coupling=LearnedCoupling()), FlowMatching()
    nets = networks(learned, mean=zeros, log_variance=zeros)
    a = learned.loss(nets, Batch(x1=x1), generator=Rows(1, 0, N))
    b = plain.loss(nets, Batch(x1=x1), generator=Rows(1, 0, N))
    torch.testing.assert_close(a.terms["flow"], b.terms["flow"], rtol=1e-14, atol=0)
    assert float(a.terms["kl"].abs().max()) == 0.0


def test_at_beta_a_million_it_learns_to_be_the_independent_coupling() -> None:
    objective, plain = FlowMatching(coupling=LearnedCoupling(beta=1e6)), FlowMatching()
    nets = networks(objective)
    optimiser = torch.optim.Adam(nets.parameters(), lr=0.03)
    for step in range(150):
        optimiser.zero_grad()
        objective.loss(nets, Batch(x1=draws(N, 2, seed=step)), generator=Rows(step, 0, N)).total.backward()
        optimiser.step()
    batch = Batch(x1=draws(4000, 2, seed=9999))
    with torch.no_grad():
        flows = [
            float(o.loss(nets, batch, generator=Rows(1, 0, 4000)).terms["flow"].mean()) for o in (objective, plain)
        ]
    assert flows[0] == pytest.approx(flows[1], rel=0.01)


def test_moments_of_the_aggregate_are_followed_in_training_and_logged() -> None:
    objective = FlowMatching(coupling=LearnedCoupling(momentum=0.5))
    coupling, n = objective.coupling, 4000
    assert isinstance(coupling, LearnedCoupling)
    mean, log_variance = torch.full((n, 2), 0.7, dtype=DTYPE), torch.full((n, 2), -1.0, dtype=DTYPE)
    nets = networks(objective, mean=mean, log_variance=log_variance)
    terms = objective.loss(nets, Batch(x1=draws(n, 2)), generator=Rows(1, 0, n)).terms
    assert float(terms["aggregate_mean"].mean()) == pytest.approx(0.7, abs=0.02)
    assert float(terms["aggregate_variance"].mean()) == pytest.approx(0.368, abs=0.02)
    assert {"coupling.aggregate_mean", "coupling.aggregate_square", "coupling.seen"} <= set(objective.state_dict())
    before = coupling.aggregate_mean.clone()
    objective.eval()
    objective.loss(nets, Batch(x1=draws(n, 2)), generator=Rows(2, 0, n))
    assert torch.equal(before, coupling.aggregate_mean)


def test_standardised_draws_have_the_moments_of_the_source() -> None:
    objective = FlowMatching(source=ScaledGaussian(2.0), coupling=LearnedCoupling(standardise=True))
    n = 4000
    nets = networks(objective)
    batch, _ = objective.pair(Batch(x1=draws(n, 2)), Rows(1, 0, n), nets)
    assert batch.x0 is not None
    assert float(batch.x0.detach().mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(batch.x0.detach().std()) == pytest.approx(2.0, abs=1e-3)


def test_padding_is_neither_seen_nor_counted() -> None:
    padding = torch.tensor([[True, True, False]]).expand(N, 3)
    objective = FlowMatching(coupling=LearnedCoupling())
    nets = networks(objective)
    nets.by_name["main"] = MLP(NetworkSpec(), dimension=3, width=8, depth=1).to(DTYPE)
    x1 = draws(N, 3)
    losses = []
    for fill in (torch.nan, 0.0, 5.0):
        assert isinstance(objective.coupling, LearnedCoupling)
        objective.coupling.seen.fill_(False)
        batch = Batch(x1=x1.where(padding, fill), cond=Cond(padding=padding))
        losses.append(objective.loss(nets, batch, generator=Rows(1, 0, N)))
    assert all(bool(loss.total.isfinite()) for loss in losses)
    for name in losses[0].terms:
        assert torch.equal(losses[0].terms[name], losses[1].terms[name])
        torch.testing.assert_close(losses[0].terms[name], losses[2].terms[name])
    mean, log_variance = nets["encoder"]((x1[:, :2],), (), Cond()).values()
    kl = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(torch.zeros(2, dtype=DTYPE), 1.0)).mean(1)
    torch.testing.assert_close(losses[0].terms["kl"], 20.0 * kl)


def test_a_weighed_sample_weighs_in_both_terms() -> None:
    objective, weight = FlowMatching(coupling=LearnedCoupling()), torch.rand(N, dtype=DTYPE)
    nets, x1 = networks(objective), draws(N, 2)
    plain, weighed = (
        objective.loss(nets, Batch(x1=x1, weight=w), generator=Rows(1, 0, N)).terms for w in (None, weight)
    )
    for name in ("flow", "kl"):
        torch.testing.assert_close(weighed[name], weight * plain[name])


def test_log_variances_are_bounded() -> None:
    wild = torch.full((N, 2), 1e4, dtype=DTYPE)
    objective = FlowMatching(coupling=LearnedCoupling())
    nets = networks(objective, mean=torch.zeros_like(wild), log_variance=wild)
    assert bool(objective.loss(nets, Batch(x1=draws(N, 2)), generator=Rows(1, 0, N)).total.isfinite())


def test_what_it_cannot_do_is_refused() -> None:
    coupling = LearnedCoupling()
    with pytest.raises(UserError, match="means the score only with"):
        FlowMatching(coupling=coupling, prediction=ScorePrediction())
    objective = FlowMatching(coupling=coupling)
    nets, x1 = networks(objective), draws(N, 2)
    field = objective.field(nets)
    with pytest.raises(UserError, match="independent coupling"):
        objective.path.score(x1, x1, torch.zeros(N), assume_independent_gaussian=field.independent_gaussian)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="brings its own x0, which the coupling LearnedCoupling would pass over"):
        objective.pair(Batch(x1=x1, x0=x1), Rows(1, 0, N), nets)
    with pytest.raises(UserError, match="needs its encoder"):
        objective.pair(Batch(x1=x1), Rows(1, 0, N))
    nets.came_without("encoder")
    with pytest.raises(UserError, match="model folders come without the encoder"):
        objective.pair(Batch(x1=x1), Rows(1, 0, N), nets)
    with pytest.raises(UserError, match="beta"):
        LearnedCoupling(beta=0.0)
