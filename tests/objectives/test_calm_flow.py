"""CaLMFlow: what a point may see, the cache, the layout, the velocity variant, the latent, and training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import flowkit
from flowkit.cli.main import main
from flowkit.cond import Cond
from flowkit.config.recipe import load_recipe
from flowkit.couplings import Batch, GivenPairs
from flowkit.errors import UserError
from flowkit.fields.guidance import ClassifierFree
from flowkit.nn.causal_transformer import CausalTransformer
from flowkit.nn.mlp import MLP
from flowkit.nn.network import NetworkSpec
from flowkit.nn.sequence import deinterleave, interleave
from flowkit.objectives import CaLMFlow, FlowMatching, Networks
from flowkit.paths import TrigonometricPath
from flowkit.random import Rows
from flowkit.solvers.midpoint import Midpoint
from flowkit.solvers.sampler import Sampler
from flowkit.times import GridTimes, SigmoidGrid
from flowkit.train.trainer import Trainer

STATE = (3,)


def built(objective: FlowMatching, *, labels: bool = False, **sizes: int) -> Networks:
    torch.manual_seed(0)

    def network(spec: NetworkSpec) -> CausalTransformer:
        known = replace(spec, state=STATE, labels={"label": 4} if labels else {}, vectors={"v": 2} if labels else {})
        return CausalTransformer(known, width=16, heads=2, **sizes)

    return Networks.build(objective.needs(), network).double().eval()


def cond(n: int) -> Cond:
    generator = torch.Generator().manual_seed(9)
    v = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return Cond({"label": torch.arange(n) % 4, "v": v}, nulls={"label": 4})


def points(n: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    w = torch.randn(n, count, *STATE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return w, torch.linspace(0.0, 1.0, count, dtype=torch.float64).expand(n, -1)


@pytest.mark.parametrize("sizes", [{}, {"tokens": 3}, {"window": 2}, {"tokens": 2, "window": 1}])
def test_a_point_changes_nothing_before_it_and_something_at_itself(sizes):
    network = built(CaLMFlow(points=8), labels=True, **sizes).main
    w, t = points(2, 7)
    before = network((w,), (t,), cond(2))["v"]
    for j in range(7):
        changed = w.clone()
        changed[:, j] += 1.0
        after = network((changed,), (t,), cond(2))["v"]
        assert torch.equal(after[:, :j], before[:, :j])
        assert not torch.allclose(after[:, j], before[:, j])
        if window := sizes.get("window"):
            assert torch.allclose(after[:, j + 2 * window :], before[:, j + 2 * window :]) or window > 1
    if sizes.get("window") == 1:  # nothing of the past at all
        changed = w.clone()
        changed[:, 0] += 1.0
        assert torch.equal(network((changed,), (t,), cond(2))["v"][:, 1:], before[:, 1:])


@pytest.mark.parametrize("sizes", [{}, {"tokens": 2}, {"window": 2}])
@pytest.mark.parametrize("trajectories", [1, 3])
def test_the_cache_gives_what_reading_everything_gives(sizes, trajectories):
    objective = CaLMFlow(points=6, trajectories=trajectories)
    network = built(objective, labels=True, **sizes).main
    w, t = points(6, 5)
    seen = interleave(w, trajectories)
    times = t[0].repeat_interleave(trajectories).expand(len(seen), -1)
    whole = network((seen,), (times,), cond(6))["v"]
    memory, parts = network.begin(len(seen), cond(6)), []
    for i in range(0, seen.shape[1], trajectories):
        heads, memory = network.extend(
            memory, (seen[:, i : i + trajectories],), (times[:, i : i + trajectories],), cond(6)
        )
        parts.append(heads["v"])
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-10)


def test_interleaving_is_undone_takes_turns_and_is_nothing_for_one():
    w, _ = points(6, 5)
    assert torch.equal(deinterleave(interleave(w, 3), 3), w)
    assert torch.equal(interleave(w, 1), w)
    assert torch.equal(interleave(w, 2)[0, :4], torch.stack([w[0, 0], w[1, 0], w[0, 1], w[1, 1]]))


def test_a_condition_in_front_reaches_every_point():
    network = built(CaLMFlow(points=8), labels=True).main
    w, t = points(2, 7)
    one, two = cond(2), Cond({**cond(2).values, "v": cond(2)["v"] + 1.0})
    difference = network((w,), (t,), one)["v"] - network((w,), (t,), two)["v"]
    assert bool((difference.abs().amax(2) > 1e-6).all())


@pytest.mark.parametrize("path", [FlowMatching().path, TrigonometricPath()])
def test_without_history_the_velocity_variant_is_flow_matching_on_the_grid(path):
    steps, n = 5, 7
    objective = CaLMFlow(points=steps + 1, predicts="velocity", path=path)
    ours = built(objective, window=1)
    plain = FlowMatching(path=path, times=GridTimes(steps))
    theirs = built(plain, window=1)
    theirs.load_state_dict(ours.state_dict())
    x0, _ = points(n, 1, seed=1)
    x1, _ = points(n, 1, seed=2)
    batch = Batch(x0=x0[:, 0], x1=x1[:, 0])
    objective.coupling = plain.coupling = GivenPairs()
    losses = []
    for i in range(steps):
        point = path.at(batch.x0, batch.x1, torch.full((n,), i / steps, dtype=torch.float64))
        losses.append(plain.error_at(plain.output(theirs, point.xt, point.t, Cond()), point.xt, point, batch))
    found = objective.loss(ours, batch).terms["flow"]
    # The grid is float32.
    assert torch.allclose(found, torch.stack(losses).mean(0), rtol=1e-6)
    sampler = Sampler(steps=steps)
    one = objective.generate(ours, batch.x1, Cond(), sampler=sampler, x0=batch.x0).x
    two = plain.generate(theirs, batch.x1, Cond(), sampler=sampler, x0=batch.x0).x
    assert torch.allclose(one, two, atol=1e-6)


def test_the_loss_is_the_mean_square_of_the_next_point_and_the_latent_s_divergence():
    objective = CaLMFlow(points=4, latent=5, kl=0.5, coupling=GivenPairs())
    networks = built(objective)
    x0, _ = points(3, 1, seed=1)
    x1, _ = points(3, 1, seed=2)
    terms = objective.loss(networks, Batch(x0=x0[:, 0], x1=x1[:, 0]), generator=torch.Generator().manual_seed(0)).terms
    t = torch.linspace(0.0, 1.0, 4)
    w = x0 + t[:, None] * (x1 - x0)
    heads = networks.main((w[:, :-1],), (t[:-1].expand(3, -1),), Cond())
    law = torch.distributions.Normal(heads["mean"], heads["variance"].sqrt())
    standard = torch.distributions.Normal(torch.zeros(()).double(), torch.ones(()).double())
    divergence = torch.distributions.kl_divergence(law, standard).sum(2).mean(1)
    assert torch.allclose(terms["kl"], 0.5 * divergence / 3.0, rtol=1e-5)
    noise = torch.randn(3, 3, 5, generator=torch.Generator().manual_seed(0)).double()
    made = networks.main.decode(heads["mean"] + heads["variance"].sqrt() * noise)
    assert torch.allclose(terms["flow"], (made - w[:, 1:]).square().mean((1, 2)), rtol=1e-5)
    assert float(heads["variance"].detach().min()) > 1e-4


def test_a_latent_makes_samples_random_even_in_evaluation_and_temperature_zero_does_not():
    for temperature, same in ((1.0, False), (0.0, True)):
        objective = CaLMFlow(points=4, latent=5, temperature=temperature)
        networks = built(objective)
        x0 = torch.randn(6, *STATE, dtype=torch.float64)
        one, two = (
            objective.generate(
                networks, x0, Cond(), sampler=Sampler(steps=3), x0=x0, generator=torch.Generator().manual_seed(seed)
            ).x
            for seed in (1, 2)
        )
        assert torch.equal(one, two) is same


@pytest.mark.parametrize("rows", [6, 7])
def test_trajectories_read_together_are_sampled_in_any_number(rows):
    objective = CaLMFlow(points=4, trajectories=3, latent=2)
    networks = built(objective, labels=True)
    like = torch.zeros(rows, *STATE, dtype=torch.float64)
    made = objective.generate(networks, like, cond(rows), sampler=Sampler(steps=3), generator=Rows(3, total=rows))
    assert made.x.shape == like.shape
    assert made.network_calls.tolist() == [3] * rows
    x1 = torch.randn(rows, *STATE, dtype=torch.float64)
    loss = objective.loss(networks, Batch(x1=x1, cond=cond(rows)), generator=torch.Generator().manual_seed(0))
    assert loss.terms["flow"].shape == (rows,)


def test_padding_does_not_count():
    objective = CaLMFlow(points=4)
    networks, x1 = built(objective), torch.randn(4, *STATE, dtype=torch.float64)
    padding = torch.tensor([True, True, False]).expand(4, 3)
    losses = [
        objective.loss(
            networks, Batch(x1=x, cond=Cond(padding=padding)), generator=torch.Generator().manual_seed(0)
        ).total
        for x in (x1, x1.where(padding, torch.nan))
    ]
    assert torch.equal(losses[0], losses[1])
    made = objective.generate(networks, x1, Cond(padding=padding), sampler=Sampler(steps=3)).x
    assert not bool(made[:, 2].any())


def test_the_divergence_counts_real_elements_alone():
    objective = CaLMFlow(points=4, latent=5, coupling=GivenPairs())
    networks = built(objective)
    (x0, _), (x1, _) = points(2, 1, seed=1), points(2, 1, seed=2)
    given = {"x0": x0[:, 0], "x1": x1[:, 0]}
    real = torch.tensor([[True, True, False], [True, False, False]])
    t = torch.linspace(0.0, 1.0, 4)
    w = (x0 + t[:, None] * (x1 - x0)).where(real[:, None], 0.0)
    heads = networks.main((w[:, :-1],), (t[:-1].expand(2, -1),), Cond())
    divergence = 0.5 * (heads["mean"].square() + heads["variance"] - heads["variance"].log() - 1.0).sum(2).mean(1)
    padded = objective.loss(networks, Batch(**given, cond=Cond(padding=real))).terms["kl"]
    assert torch.allclose(padded, divergence / torch.tensor([2.0, 1.0]))
    # What is real but not kept counts as little, also where rows are read together and one is read twice.
    kept = objective.loss(networks, Batch(**given, keep=real)).terms["kl"]
    plain = objective.loss(networks, Batch(**given)).terms["kl"]
    assert torch.allclose(kept, plain * 3.0 / torch.tensor([2.0, 1.0]))
    three = CaLMFlow(points=4, latent=5, trajectories=3, coupling=GivenPairs())
    assert three.loss(built(three), Batch(**given, keep=real)).total.isfinite()


def test_what_it_cannot_do_is_refused_in_a_line():
    objective = CaLMFlow(points=8)
    networks, like = built(objective), torch.zeros(2, *STATE, dtype=torch.float64)
    with pytest.raises(UserError, match="CaLMFlow has no velocity field"):
        objective.field(networks)
    with pytest.raises(UserError, match="made in 7 steps, not by 10 steps"):
        objective.generate(networks, like, Cond(), sampler=Sampler(steps=10))
    with pytest.raises(UserError, match="cannot be guided"):
        objective.generate(networks, like, Cond(), sampler=Sampler(steps=7, guidance=ClassifierFree(2.0)))
    with pytest.raises(UserError, match="samples from 0 to 1"):
        objective.generate(networks, like, Cond(), sampler=Sampler(steps=7), x0=like, span=(1.0, 0.0))
    with pytest.raises(UserError, match="not by Midpoint on"):
        objective.generate(networks, like, Cond(), sampler=Sampler(solver=Midpoint(), steps=7))
    with pytest.raises(UserError, match="SigmoidGrid"):
        objective.generate(networks, like, Cond(), sampler=Sampler(steps=7, grid=SigmoidGrid()))
    with pytest.raises(UserError, match="hooks"):
        objective.generate(networks, like, Cond(), sampler=Sampler(steps=7), hooks=[print])
    with pytest.raises(UserError, match="MLP reads one state"):
        Networks.build(objective.needs(), MLP)
    with pytest.raises(UserError, match="this task does not tell it"):
        Networks.build(objective.needs(), CausalTransformer)
    with pytest.raises(UserError, match="points 1 must be at least 2"):
        CaLMFlow(points=1)


PLANE = [
    ("trainer.steps", "4"), ("trainer.checkpoint_every", "2"), ("trainer.evaluate_every", "0"),
    ("trainer.sample_every", "0"), ("trainer.progress", "false"), ("trainer.tensorboard", "false"),
    ("trainer.device", "cpu"), ("data.size", "500"), ("data.held_out", "64"), ("trainer.batch", "32"),
]  # fmt: skip


@pytest.mark.parametrize("name", ["generic/mixture-calmflow", "policy/smoke/calmflow-fork"])
def test_it_trains_resumes_saves_loads_and_samples(name, tmp_path: Path, capsys):
    changes = list(PLANE)
    if name.startswith("policy"):
        changes = [change for change in PLANE if not change[0].startswith("data")]
        changes += [("data.episodes", "4"), ("task.rollout_episodes", "0")]

    def train(folder: Path, resume: int | None = None) -> None:
        recipe = load_recipe(name, changes, trainer=Trainer)
        made = recipe.build()
        made.trainer.fit(
            made.task, made.data, sampler=made.sampler, seed=0, folder=folder, recipe_text=recipe.dump(), resume=resume
        )

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(whole)
    train(parts)
    train(parts, resume=2)
    one, two = (flowkit.load(folder).task for folder in (whole, parts))
    for key, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[key]), key
    main(["sample", str(whole), "-n", "3", "--out", str(tmp_path / "made"), "--device", "cpu"])
    assert any((tmp_path / "made").iterdir())
