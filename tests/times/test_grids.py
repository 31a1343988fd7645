"""Grids: exact ends, strictly increasing, symmetric, and the limits of the solver card, 0.6."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowkit.errors import UserError
from flowkit.paths import LinearPath, TrigonometricPath, VEPath, VPBetaPath
from flowkit.times import EDMGrid, ShiftedGrid, SigmoidGrid, TimeGrid, UniformGrid

GRIDS = st.one_of(
    st.just(UniformGrid()),
    st.builds(SigmoidGrid, st.floats(0.0, 20.0), st.floats(0.0, 1.0)),
    st.builds(ShiftedGrid, st.floats(0.05, 20.0)),
    st.builds(
        EDMGrid,
        st.sampled_from([LinearPath(), LinearPath(1e-4), TrigonometricPath(), VPBetaPath(), VEPath(0.002, 80.0)]),
    ),
    st.builds(EDMGrid, exponent=st.floats(1.0, 10.0), rho_max=st.floats(10.0, 100.0), rho_min=st.floats(1e-3, 0.1)),
)


@settings(max_examples=150, deadline=None)
@given(grid=GRIDS, steps=st.integers(1, 100))
def test_every_grid_increases_from_0_to_1_exactly(grid: TimeGrid, steps: int) -> None:
    points = grid.points(steps)
    assert points.dtype == torch.float64
    assert points.shape == (steps + 1,)
    assert points[0].item() == 0.0
    assert points[-1].item() == 1.0
    assert bool((points.diff() > 0).all())


@settings(max_examples=30, deadline=None)
@given(steepness=st.floats(0.0, 30.0), steps=st.integers(1, 40))
def test_sigmoid_is_symmetric(steepness: float, steps: int) -> None:
    points = SigmoidGrid(steepness).points(steps)
    torch.testing.assert_close(points + points.flip(0), torch.ones_like(points), rtol=0.0, atol=1e-14)


@pytest.mark.parametrize(("k", "m"), [(6.0, 0.5), (6.0, 0.3), (12.0, 0.8)])
def test_sigmoid_is_the_normalised_logistic(k: float, m: float) -> None:
    u = torch.linspace(0.0, 1.0, 9, dtype=torch.float64)
    low, high = (torch.sigmoid(torch.tensor(z, dtype=torch.float64)) for z in (-k * m, k * (1 - m)))
    expected = (torch.sigmoid(k * (u - m)) - low) / (high - low)
    torch.testing.assert_close(SigmoidGrid(k, m).points(8), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("steepness", [0.0, 1e-12, 1e-6])
def test_sigmoid_tends_to_uniform(steepness: float) -> None:
    torch.testing.assert_close(SigmoidGrid(steepness, 0.3).points(10), UniformGrid().points(10), rtol=0.0, atol=1e-6)


def test_shift() -> None:
    points = ShiftedGrid(3.0).points(4)
    torch.testing.assert_close(points[2].item(), 0.25)  # t / (t + 3 (1 - t)) at 1/2
    torch.testing.assert_close(ShiftedGrid(1.0).points(7), UniformGrid().points(7))
    # The inverse shift puts the steps where the mirror image has them.
    torch.testing.assert_close(ShiftedGrid(1 / 3).points(4), 1.0 - points.flip(0))


def test_edm_is_even_in_the_root_of_rho() -> None:
    grid = EDMGrid(LinearPath(), rho_max=80.0, rho_min=0.002, exponent=7.0)
    t = grid.points(6)[1:-1]
    root = ((1.0 - t) / t) ** (1 / 7)
    step = (0.002 ** (1 / 7) - 80.0 ** (1 / 7)) / 5
    torch.testing.assert_close(
        root, 80.0 ** (1 / 7) + step * torch.arange(1, 6, dtype=torch.float64), rtol=1e-9, atol=0.0
    )
    # On its own path the published sigmas come back, with no step beyond sigma_min.
    t = EDMGrid(VEPath(0.002, 80.0)).points(5)
    sigma = VEPath(0.002, 80.0).coefficients(t).sigma
    torch.testing.assert_close(
        (sigma ** (1 / 7)).diff(), torch.full((5,), step, dtype=torch.float64), rtol=1e-9, atol=0.0
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UniformGrid().points(0), "at least 1 step"),
        (lambda: SigmoidGrid(-1.0), "steepness"),
        (lambda: SigmoidGrid(200.0).points(10), "same place"),
        (lambda: ShiftedGrid(0.0), "shift"),
        (lambda: EDMGrid(rho_max=0.001), "rho_min"),
        (lambda: EDMGrid(exponent=0.0), "exponent"),
    ],
)
def test_refusals(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()  # type: ignore[operator]
