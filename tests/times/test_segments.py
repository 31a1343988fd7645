"""Segments of time: who owns a boundary, ends, grids that keep the boundaries, and what is refused."""

from __future__ import annotations

import pytest
import torch

from flowkit.errors import UserError
from flowkit.times import SegmentGrid, Segments


@pytest.mark.parametrize("cuts", [1, 3, 7, [0.0, 0.1, 0.7, 1.0]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_boundary_belongs_to_the_segment_that_begins_there(cuts: int | list[float], dtype: torch.dtype) -> None:
    segments = Segments(cuts)
    t = torch.tensor(segments.boundaries, dtype=torch.float64).to(dtype)
    assert segments.index(t).tolist() == [*range(len(segments)), len(segments) - 1]
    assert torch.equal(segments.start(t[:-1]), t[:-1])
    assert torch.equal(segments.end(t[:-1]), t[1:])
    assert float(segments.end(t[-1:])) == 1.0
    below = torch.nextafter(t[1:], torch.zeros_like(t[1:]))
    assert segments.index(below).tolist() == list(range(len(segments)))


@pytest.mark.parametrize("cuts", [2, 3, [0.0, 0.2, 1.0]])
def test_the_grid_keeps_every_boundary_and_splits_each_segment_alike(cuts: int | list[float]) -> None:
    grid, segments = SegmentGrid(cuts), Segments(cuts)
    for each in (1, 2, 5):
        points = grid.points(each * len(segments))
        assert points.dtype == torch.float64
        assert points[0] == 0.0
        assert points[-1] == 1.0
        assert bool((points.diff() > 0).all())
        assert torch.equal(points[::each], torch.tensor(segments.boundaries, dtype=torch.float64))
        # What the field is asked at, in the precision it is asked in, lies in the segment of the step.
        owners = segments.index(points[:-1].float()).tolist()
        assert owners == [k for k in range(len(segments)) for _ in range(each)]
        segments.check(points)
        segments.check(points.flip(0))


def test_steps_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="multiple of 3, not 4"):
        SegmentGrid(3).points(4)
    with pytest.raises(UserError, match=r"steps over the segment boundary t = 0.5.*SegmentGrid"):
        Segments(2).check([0.0, 1 / 3, 2 / 3, 1.0], "UniformGrid with 3 steps")
    Segments(2).check([0.6, 0.8, 1.0])
    for wrong in (0, [0.0, 0.5], [0.0, 0.6, 0.5, 1.0], [0.5]):
        with pytest.raises(UserError, match="segments"):
            Segments(wrong)


def test_draws_are_uniform_over_segments_or_over_time() -> None:
    segments, generator = Segments([0.0, 0.1, 1.0]), torch.Generator().manual_seed(0)
    assert float(segments.draw(20_000, generator).float().mean()) == pytest.approx(0.5, abs=0.02)
    assert float(segments.draw(20_000, generator, by_length=True).float().mean()) == pytest.approx(0.9, abs=0.01)
    start, end = segments.spans(torch.tensor([1, 0]))
    assert start.tolist() == pytest.approx([0.1, 0.0])
    assert end.tolist() == pytest.approx([1.0, 0.1])


def test_equal_cuts_are_the_same_segments() -> None:
    assert Segments(2) == Segments([0.0, 0.5, 1.0])
    assert repr(Segments([0.0, 0.5, 1.0])) == "2"
    assert repr(SegmentGrid([0.0, 0.25, 1.0])) == "SegmentGrid(segments=[0.0, 0.25, 1.0])"
