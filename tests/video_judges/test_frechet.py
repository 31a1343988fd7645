"""The Frechet distance of features against closed forms and a plain matrix root, and FVD's rules around it."""

import numpy as np
import pytest
import torch
from scipy import linalg

from domains.video.evaluation.fvd import fvd
from flowkit.errors import UserError
from flowkit.metrics import frechet_distance


def normal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def exactly(n: int, covariance: torch.Tensor, mean: torch.Tensor, seed: int) -> torch.Tensor:
    """Points whose sample mean and covariance are exactly these."""
    x = normal(n, len(mean), seed)
    x = x - x.mean(0)
    white = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (n - 1))).T
    return white @ torch.linalg.cholesky(covariance).T + mean


def test_equal_to_the_closed_form_of_normal_laws_that_commute():
    # For diagonal covariances: |m|^2 + sum (s - r)^2.
    s, r = torch.tensor([0.5, 1.0, 2.0]).double(), torch.tensor([1.5, 1.0, 0.25]).double()
    m = torch.tensor([1.0, -2.0, 0.5]).double()
    x = exactly(40, torch.diag(s**2), torch.zeros(3).double(), 0)
    y = exactly(70, torch.diag(r**2), m, 1)
    assert frechet_distance(x, y) == pytest.approx(float(m.square().sum() + (s - r).square().sum()), rel=1e-10)


@pytest.mark.parametrize(("n", "m", "d"), [(60, 45, 8), (200, 20, 12)])
def test_equal_to_the_matrix_root(n: int, m: int, d: int):
    x, y = normal(n, d) @ normal(d, d, 5), normal(m, d, 1) @ normal(d, d, 6) + 0.3
    a, b = np.cov(x.T.numpy()), np.cov(y.T.numpy())
    root = np.real(np.asarray(linalg.sqrtm(a @ b)))
    want = float((x.mean(0) - y.mean(0)).square().sum()) + np.trace(a + b - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(want, rel=1e-7)


def test_exact_for_fewer_points_than_features():
    # All points lie in a plane of 4 of 60 dimensions, where there are enough of them: turning it changes nothing.
    turn = torch.linalg.qr(normal(60, 60, 3)).Q[:4]
    x, y = normal(10, 4), 2.0 * normal(12, 4, 1) + 1.0
    assert frechet_distance(x @ turn, y @ turn) == pytest.approx(frechet_distance(x, y), rel=1e-9)


def test_zero_for_equal_sets_in_any_order_and_growing_with_a_shift():
    x = normal(50, 80)
    assert frechet_distance(x, x[torch.randperm(50)]) < 1e-9
    moved = [frechet_distance(x, x + by) for by in (0.1, 0.2, 0.4)]
    assert moved == pytest.approx([80 * by**2 for by in (0.1, 0.2, 0.4)], rel=1e-6)


def test_sets_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="one width"):
        frechet_distance(normal(5, 3), normal(5, 4))
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(normal(1, 3), normal(5, 3))


def test_fvd_puts_real_beside_real_at_one_n():
    real, made = normal(400, 10), normal(120, 10, 1) + 0.5
    found = fvd(made, real, count=100)
    assert found.count == 100
    assert found.resamplings == 3
    assert found.deviation > 0
    # Two sets of one law: about d (d + 3) / (2 N) for the unit normal, far below the shift's 10 * 0.25.
    assert 0.1 < found.real < 1.5
    assert found.value == pytest.approx(2.5 + found.real, abs=1.0)
    assert found == fvd(made, real, count=100)
    assert found != fvd(made, real, count=100, seed=1)


def test_the_bias_falls_with_n():
    real = normal(2000, 20)
    floors = [fvd(normal(n, 20, 7), real, count=n).real for n in (25, 100, 400)]
    assert floors[0] > 2 * floors[1] > 4 * floors[2]


@pytest.mark.parametrize(
    ("made", "real", "count", "told"),
    [(10, 100, 20, "as many made"), (60, 100, 60, "120 real"), (10, 100, 1, "N of at least 2")],
)
def test_fvd_refuses_other_numbers_of_clips(made: int, real: int, count: int, told: str):
    with pytest.raises(UserError, match=told):
        fvd(normal(made, 3), normal(real, 3), count=count)
