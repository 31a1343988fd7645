"""Which frames are seen: exact ranges, uniform draws, no look ahead."""

from __future__ import annotations

import itertools

import pytest
import torch

from domains.video.past import PastDraw, draw_frames
from flowkit.errors import UserError
from flowkit.random import Rows


@pytest.mark.parametrize("frames", [3, 4, 9])
@pytest.mark.parametrize("horizon", [0, 2, 3])
def test_every_allowed_triple_is_drawn_and_no_other(frames, horizon):
    drawn = draw_frames(60_000, frames, Rows(7, total=60_000), horizon=horizon)
    found = set(zip(drawn.target.tolist(), drawn.past.tolist(), strict=True))
    allowed = {(m, c) for m in range(2, frames) for c in range(max(0, m - horizon) if horizon else 0, m - 1)}
    assert found == allowed
    assert torch.equal(drawn.distance, drawn.target - 1 - drawn.past)
    assert torch.equal(drawn.reference, drawn.target - 1)
    assert drawn.distance.min() >= 1


def test_targets_and_past_frames_are_uniform():
    n = 200_000
    drawn = draw_frames(n, 7, Rows(3, total=n))
    counts = torch.bincount(drawn.target, minlength=7)[2:].double() / n
    assert (counts - 1 / 5).abs().max() < 5 * (0.2 * 0.8 / n) ** 0.5
    past = drawn.past[drawn.target == 6]
    shares = torch.bincount(past, minlength=5).double() / len(past)
    assert (shares - 1 / 5).abs().max() < 5 * (0.2 * 0.8 / len(past)) ** 0.5


def test_draws_do_not_depend_on_how_rows_are_cut_into_batches():
    whole = draw_frames(10, 8, Rows(5, 0, 10))
    parts = [draw_frames(4, 8, Rows(5, 0, 10)), draw_frames(6, 8, Rows(5, 4, 10))]
    assert torch.equal(whole.past, torch.cat([p.past for p in parts]))


def test_clips_of_two_frames_are_refused():
    with pytest.raises(UserError, match="at least 3 frames"):
        draw_frames(4, 2, None)


@pytest.mark.parametrize("k", [2, 3, 7])
def test_conditions_while_predicting_lie_in_range(k):
    known = torch.arange(k).double().reshape(1, k, 1, 1, 1).expand(2000, -1, -1, -1, -1)
    draw = PastDraw(known)
    cond = draw.first(torch.Generator().manual_seed(0))
    past = cond["past"].flatten().long()
    assert set(past.tolist()) == set(range(k - 1))
    assert torch.equal(cond["distance"], k - 1 - past)
    assert (cond["reference"] == k - 1).all()


def test_one_known_frame_counts_twice():
    known = torch.randn(3, 1, 2, 2, 2)
    cond = PastDraw(known).first(None)
    assert torch.equal(cond["reference"], known[:, 0])
    assert torch.equal(cond["past"], known[:, 0])
    assert cond["distance"].tolist() == [1, 1, 1]
    assert not cond.varies


@pytest.mark.parametrize("redraw", ["call", "step", "once"])
def test_when_the_past_is_drawn_anew(redraw):
    generator = torch.Generator().manual_seed(1)
    draw = PastDraw(torch.randn(400, 9, 1, 1, 1), redraw=redraw)
    cond = draw.first(generator)
    t = torch.zeros(400)
    if redraw == "once":
        assert not cond.varies
        return
    stages = [cond.at(t, step, generator)["distance"] for step in (0, 0, 1, 1)]
    same = [torch.equal(a, b) for a, b in itertools.pairwise(stages)]
    assert same == ([False, False, False] if redraw == "call" else [True, False, True])
