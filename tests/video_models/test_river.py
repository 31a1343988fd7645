"""RIVER's exact properties: the field's calls, the warm start, the two forms of the target, nothing from the future."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest
import torch
from tiny_video import TinySource, tiny_task

from domains.video.data.jitter import ColourJitter
from domains.video.past import PastDraw
from domains.video.rollout import warm_start
from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.nn.codec import IdentityCodec
from flowkit.nn.network import Network
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.regression import Regression
from flowkit.paths.linear import LinearPath
from flowkit.random import Rows
from flowkit.solvers.controllers import Tolerance
from flowkit.solvers.dormand_prince import DormandPrince
from flowkit.solvers.euler import Euler
from flowkit.solvers.rk4_three_eighths import RK4ThreeEighths
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.solve import solve

FLOOR = 1e-7


class Oracle(Network):
    """(z_r - y) / (1 - t): the exact field of a path without floor that ends on the reference."""

    def __init__(self, spec):
        super().__init__(spec)
        self.calls, self.seen = 0, []
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, inputs, times, cond):
        self.calls += 1
        self.seen.append(cond["distance"].clone())
        y, t = inputs[0], times[0]
        return {"v": (cond["reference"] - y) / (1 - t.to(y.dtype)).reshape(-1, 1, 1, 1)}


def frames(n=2, k=5, seed=0):
    return torch.randint(0, 256, (n, k, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_both_forms_of_the_target_agree():
    generator = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(2, 500, 6, dtype=torch.float64, generator=generator)
    t = torch.rand(500, dtype=torch.float64, generator=generator) * 0.999
    point = LinearPath(floor=FLOOR).at(x0, x1, t)
    u = x1 - (1 - FLOOR) * x0
    other = (x1 - (1 - FLOOR) * point.xt) / (1 - (1 - FLOOR) * t[:, None])
    assert (point.vt - u).abs().max() < 1e-12
    assert (other - u).abs().max() < 1e-10


@pytest.mark.parametrize(("solver", "cost"), [(RK4ThreeEighths(), 4), (Euler(), 1)])
@pytest.mark.parametrize("strength", [0.0, 0.4])
@pytest.mark.parametrize("points", [2, 6])
def test_network_calls_of_a_frame(solver, cost, strength, points):
    task = tiny_task(network=Oracle, strength=strength)
    rollout = task.roll(frames(), sampler=Sampler(solver=solver, steps=points - 1))
    solution = next(rollout)
    assert task.networks.main.calls == cost * (points - 1)
    assert solution.evaluations.tolist() == [cost * (points - 1)] * 2
    assert solution.network_calls.tolist() == [cost * (points - 1)] * 2


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_the_oracle_field_ends_on_the_reference(strength, steps):
    task = tiny_task(network=Oracle, strength=strength)
    context = frames()
    solution = next(task.roll(context, sampler=Sampler(steps=steps)))
    assert (solution.x - task.encode(context)[:, -1]).abs().max() < 1e-5


@pytest.mark.parametrize("redraw", ["call", "step", "once"])
def test_how_often_a_solve_draws_the_past(redraw):
    task = tiny_task(network=Oracle, redraw=redraw)
    many = frames(n=64, k=5)
    next(task.roll(many, sampler=Sampler(solver=RK4ThreeEighths(), steps=3)))
    seen = task.networks.main.seen
    assert all(((d >= 1) & (d <= 4)).all() for d in seen)
    fresh = 1 + sum(not torch.equal(a, b) for a, b in pairwise(seen))
    assert fresh == {"call": 12, "step": 3, "once": 1}[redraw]


def test_adaptive_steps_need_one_draw_a_frame():
    adaptive = Sampler(solver=DormandPrince(), controller=Tolerance(rtol=1e-2, atol=1e-2))
    task = tiny_task(redraw="call")
    with pytest.raises(UserError, match="redrawn"):
        next(task.roll(frames(), sampler=adaptive))
    assert next(tiny_task(redraw="once").roll(frames(), sampler=adaptive)).x.isfinite().all()


def test_a_warm_start_is_the_path_and_at_zero_never_reads_the_frame():
    reference = torch.randn(4, 3, 8, 8)
    objective = FlowMatching(path=LinearPath(floor=FLOOR))

    def start(frame, strength):
        return warm_start(objective, frame, Cond(), strength, generator=torch.Generator().manual_seed(3))

    noise = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(start(reference, 0.3), (1 - (1 - FLOOR) * 0.3) * noise + 0.3 * reference, atol=1e-6)
    assert torch.equal(start(reference, 0.0), start(-reference, 0.0))

    seen = []
    task = tiny_task(strength=0.0)
    original = task.objective.generate

    def spy(networks, like, cond, **options):
        seen.append((options.get("x0"), options.get("span", (0.0, 1.0))))
        return original(networks, like, cond, **options)

    task.objective.generate = spy
    next(task.roll(frames(), sampler=Sampler(steps=1)))
    assert seen == [(None, (0.0, 1.0))]


def test_a_warm_start_with_temperature_scales_the_noise_alone():
    reference = torch.zeros(2, 3, 8, 8)
    objective = FlowMatching()
    state = [
        warm_start(objective, reference, Cond(), 0.5, temperature=c, generator=torch.Generator().manual_seed(3))
        for c in (1.0, 0.5)
    ]
    assert torch.allclose(state[1], 0.5 * state[0])
    task = tiny_task(strength=0.5)
    assert next(task.roll(frames(), sampler=Sampler(steps=2, temperature=0.5))).x.isfinite().all()


def test_training_sees_a_target_its_reference_and_an_older_frame():
    task = tiny_task()
    raw = {"frames": torch.arange(9, dtype=torch.uint8).reshape(1, 9, 1, 1, 1).expand(500, -1, 3, 8, 8)}
    batch = task.prepare(raw, Rows(4, total=500))

    def number(x):
        return ((x[:, 0, 0, 0] + 1) * 127.5).round().long()

    m, r, c = number(batch.x1), number(batch.cond["reference"]), number(batch.cond["past"])
    assert torch.equal(r, m - 1)
    assert (c <= m - 2).all()
    assert torch.equal(batch.cond["distance"], r - c)
    assert set(m.tolist()) == set(range(2, 9))


def test_conditions_hold_nothing_of_the_target_or_later():
    task, source = tiny_task(), TinySource()
    raw = source.split("train").batch(range(8))
    first = task.prepare(raw, Rows(1, total=8))
    m = first.cond["distance"]  # only for its shape
    clips = raw["frames"].clone()
    # The same draws on clips whose target and later frames are other ones.
    from domains.video.past import draw_frames

    drawn = draw_frames(8, 6, Rows(1, total=8))
    for row, target in enumerate(drawn.target.tolist()):
        clips[row, target:] = 255 - clips[row, target:]
    second = task.prepare({"frames": clips}, Rows(1, total=8))
    assert torch.equal(first.cond["reference"], second.cond["reference"])
    assert torch.equal(first.cond["past"], second.cond["past"])
    assert not torch.equal(first.x1, second.x1)
    assert m.shape == (8,)


def test_evaluation_predicts_without_the_true_future():
    from domains.video.judge import predict

    task = tiny_task()
    clips = TinySource().split("test").batch(range(4))["frames"]
    a = predict(task, clips[:, :2], 3, sampler=Sampler(steps=2), seed=1).frames
    changed = clips.clone()
    changed[:, 2:] = 0
    b = predict(task, changed[:, :2], 3, sampler=Sampler(steps=2), seed=1).frames
    assert torch.equal(a, b)


def test_actions_of_the_step_into_the_target_are_read():
    task = tiny_task(actions=2)
    raw = TinySource(actions=2).split("train").batch(range(4))
    raw["actions"] = torch.arange(5.0).reshape(1, 5, 1).expand(4, -1, 2)
    raw["frames"] = torch.arange(6, dtype=torch.uint8).reshape(1, 6, 1, 1, 1).expand(4, -1, 3, 8, 8)
    batch = task.prepare(raw, Rows(0, total=4))
    reference = ((batch.cond["reference"][:, 0, 0, 0] + 1) * 127.5).round()
    assert torch.equal(batch.cond["action"][:, 0], reference)
    # actions of a rollout: as many frames as there are actions, and they matter
    out = [
        [s.x for s in task.roll(frames(n=1), sampler=Sampler(steps=1), noise=lambda i: Rows(i, total=1), actions=a)]
        for a in (torch.zeros(1, 3, 2), torch.ones(1, 3, 2))
    ]
    assert len(out[0]) == 3
    assert not torch.allclose(out[0][0], out[1][0])
    with pytest.raises(UserError, match="2 numbers of action"):
        task.roll(frames(), sampler=Sampler())


def test_kept_frames_and_calls_do_not_grow_with_the_rollout():
    task = tiny_task()
    assert task.reach == 5
    rollout = task.roll(frames(n=1, k=12), sampler=Sampler(steps=1))
    kept, shapes, calls = [], set(), set()
    hook = task.networks.main.register_forward_pre_hook(lambda module, given: shapes.add(given[0][0].shape))
    for solution in islice(rollout, 50):
        kept.append(rollout.kept)
        calls.add(int(solution.network_calls[0]))
        assert solution.x.isfinite().all()
    hook.remove()
    assert set(kept) == {5}
    assert len(shapes) == 1
    assert calls == {1}


def test_the_horizon_bounds_the_distance():
    task = tiny_task(network=Oracle, horizon=3)
    for _ in islice(task.roll(frames(n=64, k=5), sampler=Sampler(steps=2)), 3):
        pass
    assert {int(d) for seen in task.networks.main.seen for d in seen} == {1, 2}


def test_a_longer_context_than_training_saw_is_cut():
    task = tiny_task(network=Oracle)
    rollout = task.roll(frames(n=64, k=30), sampler=Sampler(steps=1))
    next(rollout)
    assert max(int(d) for seen in task.networks.main.seen for d in seen) == task.reach - 1 == 4


@pytest.mark.parametrize("objective", [FlowMatching(), Regression()])
def test_any_objective_trains_it(objective):
    task = tiny_task(objective).train()
    raw = TinySource().split("train").batch(range(4))
    loss = task(raw, generator=Rows(0, total=4))
    loss.total.backward()
    missing = [n for n, p in task.named_parameters() if p.grad is None]
    assert not missing
    task.eval()
    assert next(task.roll(frames(), sampler=Sampler(steps=1))).x.isfinite().all()


def test_the_codec_stays_frozen_and_lossless():
    task = tiny_task(codec=IdentityCodec(patch=2)).train()
    assert task.latent == (12, 4, 4)
    assert not task.codec.training
    clip = frames()
    again = task.decode(task.encode(clip)[:, 0])
    assert torch.allclose((again + 1) * 127.5, clip[:, 0].float(), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 1.0}, "strength"),
        ({"horizon": 1}, "horizon"),
        ({"redraw": "never"}, "redraw"),
        ({"context": 0}, "context"),
        ({"codec": IdentityCodec(patch=3)}, "patches of 3"),
        ({"objective": Regression(), "strength": 0.3}, "has none"),
        ({"context": 6}, "at least 7"),
    ],
)
def test_mistakes_get_one_line(options, message):
    with pytest.raises(UserError, match=message) as caught:
        tiny_task(**options)
    assert "\n" not in str(caught.value)


def test_draws_per_step_restore_the_order_of_the_solver():
    # With one draw a step, a step is a plain Runge-Kutta step of a field that does not change inside it.
    known = torch.tensor([[0.0, 1.0, 2.0, 3.0]], dtype=torch.float64).reshape(1, 4, 1, 1, 1)
    seen = []

    def field(x, t, cond):
        seen.append(float(cond["distance"][0]))
        return -x * cond["distance"].to(x.dtype).reshape(-1, 1, 1, 1)

    draw = PastDraw(known, redraw="step")
    generator = torch.Generator().manual_seed(0)
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    from flowkit.solvers.controllers import FixedSteps

    out = solve(
        field, x, solver=RK4ThreeEighths(), controller=FixedSteps(40), cond=draw.first(generator), generator=generator
    )
    rates = seen[::4]
    exact = torch.exp(-torch.tensor(rates, dtype=torch.float64).sum() / 40)
    assert abs(float(out.x) - float(exact)) < 1e-6


def test_other_colours_are_shown_in_training_only_and_alike_in_all_frames():
    task = tiny_task(jitter=ColourJitter(hue=0.25, brightness=0.2))
    raw = {"frames": torch.randint(0, 256, (4, 1, 3, 8, 8), dtype=torch.uint8).expand(4, 6, 3, 8, 8)}
    plain = task.prepare(raw, Rows(3, total=4))
    assert torch.equal(plain.x1, task.encode(raw["frames"][:, :1])[:, 0])
    task.train()
    other = task.prepare(raw, Rows(3, total=4))
    assert (other.x1 - plain.x1).abs().amax((1, 2, 3)).min() > 0.05
    assert torch.equal(other.cond.values["reference"], other.x1)
    assert torch.equal(other.cond.values["past"], other.x1)
    # The frames that are drawn are the same.
    assert torch.equal(other.cond.values["distance"], plain.cond.values["distance"])
    assert torch.equal(task.prepare(raw, Rows(3, total=4)).x1, other.x1)
