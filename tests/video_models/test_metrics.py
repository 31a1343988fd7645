"""PSNR and SSIM against formulas written out in numpy, and against scipy's filters."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from domains.video.metrics import best_of, copy_last, finite_mean, gaussian_window, psnr, ssim


def clips(seed=0, shape=(2, 3, 3, 20, 17)):
    generator = np.random.default_rng(seed)
    true = generator.uniform(-1, 1, shape)
    made = np.clip(true + 0.3 * generator.standard_normal(shape), -1, 1)
    return torch.from_numpy(made), torch.from_numpy(true)


def reference_ssim(a, b):
    """One grey picture: scipy's correlation with a sampled normal of 11 taps; "mirror" is numpy's reflect."""
    offset = np.arange(-5, 6)
    w = np.exp(-(offset**2) / (2 * 1.5**2))
    w /= w.sum()

    def blur(v):
        return correlate1d(correlate1d(v, w, 0, mode="mirror"), w, 1, mode="mirror")

    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    return (((2 * ma * mb + c1) * (2 * cov + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean()


def test_ssim_agrees_with_an_independent_one():
    made, true = clips()
    expected = np.array(
        [[np.mean([reference_ssim(made[i, t, c].numpy(), true[i, t, c].numpy()) for c in range(3)]) for t in range(3)]
         for i in range(2)]
    )  # fmt: skip
    assert np.abs(ssim(made, true).numpy() - expected).max() < 1e-12
    assert np.abs(ssim(made.float(), true.float()).numpy() - expected).max() < 1e-6


def test_ssim_by_the_sum_over_one_window():
    made, true = clips(shape=(1, 11, 11))
    # The middle pixel of an 11 x 11 picture sees exactly the window: no edge is reflected.
    w = gaussian_window()[:, None] * gaussian_window()
    x, y = made[0], true[0]
    mx, my = (w * x).sum(), (w * y).sum()
    vx, vy, cov = (w * (x - mx) ** 2).sum(), (w * (y - my) ** 2).sum(), (w * (x - mx) * (y - my)).sum()
    middle = (2 * mx * my + 4e-4) * (2 * cov + 3.6e-3) / ((mx**2 + my**2 + 4e-4) * (vx + vy + 3.6e-3))
    # In a picture that repeats itself by reflection all the map can be had from such windows.
    padded_x, padded_y = (torch.nn.functional.pad(v[None], (5,) * 4, mode="reflect")[0] for v in (x, y))
    values = []
    for i in range(11):
        for j in range(11):
            a, b = padded_x[i : i + 11, j : j + 11], padded_y[i : i + 11, j : j + 11]
            ma, mb = (w * a).sum(), (w * b).sum()
            va, vb = (w * (a - ma) ** 2).sum(), (w * (b - mb) ** 2).sum()
            c = (w * (a - ma) * (b - mb)).sum()
            values.append((2 * ma * mb + 4e-4) * (2 * c + 3.6e-3) / ((ma**2 + mb**2 + 4e-4) * (va + vb + 3.6e-3)))
    assert abs(float(values[60] - middle)) < 1e-14
    assert abs(float(ssim(made, true)) - float(torch.stack(values).mean())) < 1e-12


def test_ssim_of_equal_pictures_is_one_and_symmetric():
    made, true = clips()
    assert torch.allclose(ssim(true, true), torch.ones(2, 3, dtype=torch.float64))
    assert torch.allclose(ssim(made, true), ssim(true, made))
    with pytest.raises(ValueError, match="5 pixels"):
        ssim(torch.zeros(1, 3, 5, 5), torch.zeros(1, 3, 5, 5))


def test_psnr_is_of_each_frames_own_error():
    true = torch.zeros(1, 2, 3, 4, 4)
    made = true.clone()
    made[0, 0] += 0.2
    made[0, 1, :, :2] += 0.2
    values = psnr(made, true)[0]
    assert values[0] == pytest.approx(10 * math.log10(4 / 0.04), abs=1e-5)
    assert values[1] == pytest.approx(10 * math.log10(4 / 0.02), abs=1e-5)
    # In 0 .. 255 units the same number: the range is the range.
    assert values[0] == pytest.approx(20 * math.log10(255 / (0.2 * 127.5)), abs=1e-5)
    assert psnr(true, true).isinf().all()


def test_copying_the_last_frame():
    context = torch.randn(2, 4, 3, 8, 8)
    copied = copy_last(context, 5)
    assert copied.shape == (2, 5, 3, 8, 8)
    assert all(torch.equal(copied[:, t], context[:, -1]) for t in range(5))


def test_best_of_takes_one_whole_sample_a_clip():
    values = torch.tensor([[[1.0, 9.0], [2.0, 2.0]], [[4.0, 4.0], [3.0, 3.0]]])
    assert best_of(values).tolist() == [[1.0, 9.0], [3.0, 3.0]]


def test_means_leave_infinite_frames_out():
    assert finite_mean(torch.tensor([1.0, math.inf, 3.0])) == 2.0
    assert finite_mean(torch.tensor([math.inf])) == math.inf
