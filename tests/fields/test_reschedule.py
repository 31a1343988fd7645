"""A field trained on one path, sampled on another (objectives card, 0.3)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowkit.errors import UserError
from flowkit.fields import FunctionField, Rescheduled
from flowkit.fields.reschedule import transport
from flowkit.paths import AffinePath, LinearPath, PowerPath, TrigonometricPath, VEPath, VPBetaPath
from flowkit.testing import GaussianMixture

# Their half log-SNR runs from minus to plus infinity: any of them holds all of any other.
FULL = [LinearPath(), TrigonometricPath(), PowerPath(2.0), PowerPath(1.3)]
PATHS = [*FULL, LinearPath(0.1), VPBetaPath(), VEPath(0.05, 20.0)]
MIXTURE = GaussianMixture([0.3, 0.7], [[1.0, -2.0, 0.5], [0.0, 1.0, -1.0]], [0.4, 0.8])


@pytest.mark.parametrize("sampled", PATHS, ids=repr)
@pytest.mark.parametrize("trained", FULL, ids=repr)
@settings(max_examples=10, deadline=None)
@given(times=st.lists(st.floats(0.02, 0.98), min_size=1, max_size=4))
def test_the_moved_field_is_the_field_of_the_other_path(
    trained: AffinePath, sampled: AffinePath, times: list[float]
) -> None:
    t = torch.tensor(times, dtype=torch.float64)
    there = MIXTURE.on(sampled)
    x = there.sample_at(t, torch.Generator().manual_seed(0))
    moved = Rescheduled(MIXTURE.on(trained).field(), sampled)
    assert moved.path is sampled
    assert moved.independent_gaussian
    torch.testing.assert_close(moved(x, t).v, there.velocity(x, t), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampled", FULL, ids=repr)
@pytest.mark.parametrize("trained", FULL, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_both_ends(trained: AffinePath, sampled: AffinePath, dtype: torch.dtype) -> None:
    # Centred data: where the trained velocity holds nothing of the data (power path, t = 0) its limit is 0.
    mixture = GaussianMixture([0.5, 0.5], [[1.0, -2.0], [-1.0, 2.0]], [0.5, 0.5], dtype=dtype)
    t = torch.tensor([0.0, 1.0], dtype=dtype)
    tau, scale, _, _ = transport(trained, sampled, t)
    assert tau.tolist() == [0.0, 1.0]
    torch.testing.assert_close(scale, torch.ones(2, dtype=dtype))
    x = torch.tensor([[0.3, -1.0], [1.2, -1.5]], dtype=dtype)
    v = Rescheduled(mixture.on(trained).field(), sampled)(x, t).v
    tolerance = 1e-9 if dtype is torch.float64 else 2e-5
    torch.testing.assert_close(v, mixture.on(sampled).velocity(x, t), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("path", FULL, ids=repr)
def test_the_transport_is_that_of_the_card(path: AffinePath) -> None:
    """v_A = (c'/c) x + c tau' v_B(x / c, tau); from linear: tau = a/(a+s), c = a+s."""
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    alpha, sigma, d_alpha, d_sigma = path.coefficients(t)
    tau, scale, of_x, of_v = transport(LinearPath(), path, t)
    close = {"rtol": 1e-11, "atol": 1e-12}
    torch.testing.assert_close(tau, alpha / (alpha + sigma), **close)
    torch.testing.assert_close(scale, alpha + sigma, **close)
    torch.testing.assert_close(of_x, d_alpha + d_sigma, **close)  # c', as x / c is what it multiplies
    torch.testing.assert_close(of_v, path.wronskian(t) / (alpha + sigma), **close)  # c tau'


@pytest.mark.parametrize(("trained", "sampled"), [(LinearPath(), VEPath(0.01, 80.0)), (VPBetaPath(), LinearPath())])
def test_trajectories_end_at_the_same_place(trained: AffinePath, sampled: AffinePath) -> None:
    """Euler-free check: RK4 with many steps on either path from the same noise."""

    def integrate(mixture_field, path: AffinePath, x0: torch.Tensor, steps: int = 150) -> torch.Tensor:
        x, h = path.start(x0), 1.0 / steps
        for i in range(steps):

            def f(x: torch.Tensor, t: float) -> torch.Tensor:
                return mixture_field(x, torch.full((len(x),), t, dtype=torch.float64)).v

            t = i * h
            a = f(x, t)
            b = f(x + h / 2 * a, t + h / 2)
            c = f(x + h / 2 * b, t + h / 2)
            d = f(x + h * c, min(t + h, 1.0))
            x = x + h / 6 * (a + 2 * b + 2 * c + d)
        return x

    # One Gaussian, not too narrow: the flow is smooth; centred, so that the starts agree up to alpha_0.
    mixture = GaussianMixture([1.0], [[0.0, 0.0]], [0.8])
    x0 = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one = integrate(mixture.on(trained).field(), trained, x0)
    other = integrate(Rescheduled(mixture.on(trained).field(), sampled), sampled, x0)
    torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-3)


def test_beyond_the_trained_range_it_stays_finite() -> None:
    t = torch.linspace(0.0, 1.0, 21, dtype=torch.float64)
    x = torch.randn(21, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for trained in (VPBetaPath(), VEPath(0.05, 20.0), LinearPath(0.1)):
        for sampled in PATHS:
            scaled = x * sampled.coefficients(t).sigma.clamp_min(1.0)[:, None]
            v = Rescheduled(MIXTURE.on(trained).field(), sampled)(scaled, t).v
            expected = MIXTURE.on(sampled).velocity(scaled, t)
            assert bool(torch.isfinite(v).all())
            assert float((v - expected).abs().max()) < 3.0 * (1.0 + float(expected.abs().max()))


def test_only_affine_paths_can_be_changed() -> None:
    with pytest.raises(UserError, match="this one has none"):
        Rescheduled(FunctionField(lambda x, t: x), LinearPath())
