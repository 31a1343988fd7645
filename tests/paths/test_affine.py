"""Every schedule: its coefficients, its inverse and its conversions (objectives card, 0.1 and 0.2)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowkit.errors import UserError
from flowkit.paths import (
    AffinePath,
    Coefficients,
    DiffusionPath,
    LinearPath,
    PowerPath,
    TrigonometricPath,
    VEPath,
    VPBetaPath,
)

PATHS = [
    LinearPath(),
    LinearPath(1e-4),
    LinearPath(0.3),
    TrigonometricPath(),
    VPBetaPath(),
    VPBetaPath(1.0, 1.0),
    VEPath(0.01, 50.0),
    PowerPath(1.0),
    PowerPath(2.0),
    PowerPath(1.5),
    DiffusionPath(),
    DiffusionPath("linear", 50),
]
every_path = pytest.mark.parametrize("path", PATHS, ids=repr)
inner_times = st.lists(st.floats(1e-3, 1.0 - 1e-3), min_size=1, max_size=5)


class PlainCopy(AffinePath):
    """The same coefficients with nothing but the base class's general formulas."""

    def __init__(self, path: AffinePath) -> None:
        self.path = path

    def coefficients(self, t: torch.Tensor) -> Coefficients:
        return self.path.coefficients(t)

    def time_of(self, half_log_snr: torch.Tensor) -> torch.Tensor:
        return self.path.time_of(half_log_snr)


def double(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def pair(n: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    return tuple(torch.randn(n, 2, 3, generator=generator, dtype=dtype) for _ in range(2))  # type: ignore[return-value]


@every_path
@settings(max_examples=20, deadline=None)
@given(times=inner_times)
def test_derivatives_are_those_of_the_coefficients(path: AffinePath, times: list[float]) -> None:
    t = double(times).requires_grad_()
    alpha, sigma, d_alpha, d_sigma = path.coefficients(t)
    for value, derivative in ((alpha, d_alpha), (sigma, d_sigma)):
        if not value.requires_grad:  # a constant
            assert torch.equal(derivative, torch.zeros_like(t))
            continue
        (slope,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
        torch.testing.assert_close(derivative, slope, rtol=1e-10, atol=1e-12)


@every_path
@settings(max_examples=20, deadline=None)
@given(times=inner_times)
def test_wronskian_is_positive_and_half_log_snr_has_its_slope(path: AffinePath, times: list[float]) -> None:
    t = double(times).requires_grad_()
    alpha, sigma, _, _ = path.coefficients(t)
    wronskian = path.wronskian(t)
    assert bool((wronskian > 0).all())
    torch.testing.assert_close(wronskian, PlainCopy(path).wronskian(t), rtol=1e-9, atol=0.0)
    half_log_snr = path.half_log_snr(t)
    torch.testing.assert_close(half_log_snr, torch.log(alpha / sigma), rtol=1e-10, atol=1e-12)
    (slope,) = torch.autograd.grad(half_log_snr.sum(), t)
    torch.testing.assert_close(slope, wronskian / (alpha * sigma), rtol=1e-9, atol=0.0)


@every_path
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-6)])
def test_time_of_inverts_half_log_snr_up_to_the_ends(path: AffinePath, dtype: torch.dtype, tolerance: float) -> None:
    t = torch.cat((torch.linspace(0.0, 1.0, 101, dtype=dtype), torch.tensor([1e-5, 1.0 - 1e-5], dtype=dtype)))
    torch.testing.assert_close(path.time_of(path.half_log_snr(t)), t, rtol=0.0, atol=tolerance)
    infinite = torch.tensor([-math.inf, math.inf], dtype=dtype)
    assert path.time_of(infinite).tolist() == [0.0, 1.0]


@every_path
@settings(max_examples=20, deadline=None)
@given(times=inner_times)
def test_conversions_round_trip(path: AffinePath, times: list[float]) -> None:
    t = double(times)
    x0, x1 = pair(len(t))
    point = path.at(x0, x1, t)
    alpha, sigma, d_alpha, d_sigma = (c[:, None, None] for c in path.coefficients(t))
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(point.xt, alpha * x1 + sigma * x0, **close)
    torch.testing.assert_close(point.vt, d_alpha * x1 + d_sigma * x0, **close)
    x, v = point.xt, point.vt
    scale = 1.0 + float(v.abs().max())
    assert float((path.data(x, v, t) - x1).abs().max()) < 1e-10 * scale * 1e2
    assert float((path.noise(x, v, t) - x0).abs().max()) < 1e-10 * scale * 1e2
    score = -x0 / sigma
    torch.testing.assert_close(
        path.score(x, v, t, assume_independent_gaussian=True) * sigma, score * sigma, rtol=1e-8, atol=1e-8
    )
    diffusion = alpha * x0 - sigma * x1
    torch.testing.assert_close(path.diffusion_velocity(x, v, t), diffusion, rtol=1e-8, atol=1e-8)
    close = {"rtol": 1e-10, "atol": 1e-10 * scale}
    torch.testing.assert_close(path.velocity(x1, x0, t), v, **close)
    torch.testing.assert_close(path.velocity_from_diffusion(diffusion, x, t), v, **close)
    # These two divide by sigma and by alpha: rounding of x grows by as much.
    torch.testing.assert_close(path.velocity_from_data(x1, x, t), v, rtol=1e-9, atol=1e-12 * scale / float(sigma.min()))
    torch.testing.assert_close(
        path.velocity_from_noise(x0, x, t), v, rtol=1e-9, atol=1e-12 * scale / float(alpha.min())
    )
    torch.testing.assert_close(
        path.velocity_from_score(score, x, t), v, rtol=1e-9, atol=1e-12 * scale / float(alpha.min())
    )


@every_path
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_everything_but_the_score_is_finite_at_both_ends(path: AffinePath, dtype: torch.dtype) -> None:
    t = torch.tensor([0.0, 1.0], dtype=dtype)
    x0, x1 = pair(2, dtype)
    point = path.at(x0, x1, t)
    x, v = point.xt, point.vt
    for value in (
        *path.coefficients(t),
        x,
        v,
        path.data(x, v, t),
        path.noise(x, v, t),
        path.velocity_from_data(x1, x, t),
        path.velocity_from_noise(x0, x, t),
        path.velocity_from_diffusion(x0, x, t),
        path.diffusion_velocity(x, v, t),
    ):
        assert bool(torch.isfinite(value).all())


@pytest.mark.parametrize("path", [LinearPath(), LinearPath(0.1), TrigonometricPath(), PowerPath(1.0)], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_both_ends_hold_both_data_and_noise(path: AffinePath, dtype: torch.dtype) -> None:
    t = torch.tensor([0.0, 1.0], dtype=dtype)
    x0, x1 = pair(2, dtype)
    point = path.at(x0, x1, t)
    tolerance = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(path.data(point.xt, point.vt, t), x1, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(path.noise(point.xt, point.vt, t), x0, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("path", [LinearPath(), TrigonometricPath(), PowerPath(2.0)], ids=repr)
def test_the_ends_are_exact(path: AffinePath) -> None:
    x0, x1 = pair(2, torch.float32)
    assert torch.equal(path.at(x0, x1, torch.zeros(2)).xt, x0)
    assert torch.equal(path.at(x0, x1, torch.ones(2)).xt, x1)


def test_vp_beta_near_the_end_keeps_its_digits_in_float32() -> None:
    t = 1.0 - torch.tensor([1e-3, 1e-5, 1e-6], dtype=torch.float32)
    narrow, wide = VPBetaPath().coefficients(t), VPBetaPath().coefficients(t.double())
    for a, b in zip(narrow, wide, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=2e-6, atol=0.0)
    alpha, sigma, d_alpha, d_sigma = VPBetaPath().coefficients(double([0.0, 0.3, 1.0]))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(3, dtype=torch.float64), rtol=0.0, atol=1e-15)
    torch.testing.assert_close(
        alpha * d_alpha + sigma * d_sigma, torch.zeros(3, dtype=torch.float64), rtol=0.0, atol=1e-14
    )
    assert alpha[0].item() == pytest.approx(math.exp(-20.1 / 4), rel=1e-12)


def test_known_values() -> None:
    half = double([0.5])
    assert [float(c) for c in LinearPath(0.2).coefficients(half)] == pytest.approx([0.5, 0.6, 1.0, -0.8])
    root = math.sqrt(0.5)
    assert [float(c) for c in TrigonometricPath().coefficients(half)] == pytest.approx(
        [root, root, math.pi / 2 * root, -math.pi / 2 * root]
    )
    assert [float(c) for c in PowerPath(2.0).coefficients(half)] == pytest.approx([0.25, 0.75, 1.0, -1.0])
    assert [float(c) for c in VEPath(0.5, 8.0).coefficients(half)] == pytest.approx(
        [1.0, 2.0, 0.0, -2.0 * math.log(16.0)]
    )
    integral = 0.1 * 0.5 + 19.9 * 0.125
    assert float(VPBetaPath().coefficients(half).alpha) == pytest.approx(math.exp(-integral / 2))


def test_trigonometric_diffusion_velocity_is_the_scaled_field() -> None:
    path, t = TrigonometricPath(), double([0.0, 0.25, 1.0])
    x0, x1 = pair(3)
    point = path.at(x0, x1, t)
    torch.testing.assert_close(path.diffusion_velocity(point.xt, point.vt, t), -2.0 / math.pi * point.vt)


def test_sampling_starts_where_the_path_does() -> None:
    x0, x1 = pair(4)
    assert torch.equal(LinearPath().start(x0), x0)
    path = VEPath(0.01, 50.0)
    torch.testing.assert_close(path.start(x0), path.at(x0, torch.zeros_like(x1), torch.zeros(4)).xt)


def test_a_score_is_refused_unless_it_is_one() -> None:
    x, v, t = *pair(2), double([0.3, 1.0])
    with pytest.raises(UserError, match="assume_independent_gaussian=True"):
        LinearPath().score(x, v, t)
    score = LinearPath().score(x, v, t, assume_independent_gaussian=True)
    torch.testing.assert_close(score[0], (0.3 * v[0] - x[0]) / 0.7)
    assert bool(torch.isnan(score[1]).all())  # never a silent number where sigma = 0


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: LinearPath(floor=1.0), "floor"),
        (lambda: LinearPath(floor=-0.1), "floor"),
        (lambda: VPBetaPath(0.0, 1.0), "beta_min"),
        (lambda: VPBetaPath(2.0, 1.0), "beta_min"),
        (lambda: VEPath(1.0, 1.0), "sigma_min"),
        (lambda: PowerPath(0.5), "exponent"),
        (lambda: PowerPath(float("nan")), "exponent"),
    ],
)
def test_wrong_parameters_are_refused_by_name(make: object, names: str) -> None:
    with pytest.raises(UserError, match=names):
        make()  # type: ignore[operator]
