"""Channels-last layers against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from domains.speech.models.layers import (
    Convolution,
    MaskedGroupNorm,
    SnakeBeta,
    Upsample,
    rotary_angles,
    rotate,
    sinusoidal,
)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("kernel", "stride", "frames"), [(1, 1, 5), (3, 1, 5), (5, 1, 9), (3, 2, 8), (3, 2, 9)])
def test_convolution_is_conv1d(kernel: int, stride: int, frames: int) -> None:
    x, layer = randn(2, frames, 4), Convolution(4, 6, kernel, stride=stride)
    weight = layer.linear.weight.unflatten(1, (kernel, 4)).transpose(1, 2)
    expected = F.conv1d(x.transpose(1, 2), weight, layer.linear.bias, stride=stride, padding=kernel // 2)
    assert torch.allclose(layer(x), expected.transpose(1, 2), atol=1e-5)


def test_upsample_is_the_transposed_convolution() -> None:
    x, layer = randn(2, 7, 4), Upsample(4)
    # even frames: taps 1 (x[i]) and 3 (x[i-1]); odd frames: taps 2 (x[i]) and 0 (x[i+1]).
    even, odd = (p.unflatten(1, (2, 4)).permute(1, 2, 0) for p in (layer.even, layer.odd))
    weight = torch.stack([odd[1], even[0], odd[0], even[1]], dim=2)
    expected = F.conv_transpose1d(x.transpose(1, 2), weight, layer.bias, stride=2, padding=1)
    assert torch.allclose(layer(x), expected.transpose(1, 2), atol=1e-5)


def test_group_norm_without_padding_is_torchs() -> None:
    x, layer = randn(2, 9, 8) * 3 + 1, MaskedGroupNorm(4, 8)
    with torch.no_grad():
        layer.weight.copy_(randn(8, seed=1))
        layer.bias.copy_(randn(8, seed=2))
    expected = F.group_norm(x.transpose(1, 2), 4, layer.weight, layer.bias).transpose(1, 2)
    assert torch.allclose(layer(x, None, 9), expected, atol=1e-5)


def test_group_norm_reads_real_frames_only() -> None:
    x, layer = randn(1, 9, 8), MaskedGroupNorm(4, 8)
    mask = (torch.arange(12) < 9).float()[None, :, None]
    padded = torch.cat([x, 100 * randn(1, 3, 8, seed=3)], dim=1)
    assert torch.allclose(layer(padded, mask, mask.sum(1))[:, :9], layer(x, None, 9), atol=1e-5)


def test_snake_beta() -> None:
    x, layer = randn(2, 5, 4), SnakeBeta(4, 6)
    with torch.no_grad():
        layer.log_frequency.copy_(randn(6, seed=1))
        layer.log_inverse_size.copy_(randn(6, seed=2))
    y = layer.linear(x)
    expected = y + torch.sin(layer.log_frequency.exp() * y) ** 2 / (layer.log_inverse_size.exp() + 1e-9)
    assert torch.allclose(layer(x), expected, atol=1e-5)


def test_rotary_products_depend_on_the_distance_only() -> None:
    cos, sin = rotary_angles(40, 48)
    query, key = randn(96), randn(96, seed=1)
    rotated_query = rotate(query.expand(1, 1, 40, 96), cos, sin)[0, 0]
    rotated_key = rotate(key.expand(1, 1, 40, 96), cos, sin)[0, 0]
    products = rotated_query[:, :48] @ rotated_key[:, :48].T
    for distance in range(-20, 21):
        diagonal = products.diagonal(distance)
        assert (diagonal - diagonal[0]).abs().max() < 1e-5 * max(1.0, float(products.abs().max()))
    assert (products.diagonal(0)[0] - products.diagonal(5)[0]).abs() > 1e-2
    assert torch.equal(rotated_query[:, 48:], query[48:].expand(40, -1))  # the other half is left alone
    pair = rotated_query[3, [2, 26]]  # channel k is paired with k + 24
    assert torch.allclose(pair.norm(), query[[2, 26]].norm(), atol=1e-5)


def test_sinusoids() -> None:
    found = sinusoidal(torch.tensor([0.0, 0.5]), 6)
    speeds = torch.tensor([1.0, 1e-2, 1e-4])
    assert found.shape == (2, 6)
    assert torch.allclose(found[1], torch.cat([(500 * speeds).sin(), (500 * speeds).cos()]), atol=1e-4)
