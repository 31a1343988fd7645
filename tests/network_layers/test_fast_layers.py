"""Layers that compute otherwise than torch's, and the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from domains.policy.models.layers import Convolution
from flowkit.nn.dropout import Dropout, dropout


@pytest.mark.parametrize(("kernel", "steps"), [(1, 3), (3, 1), (5, 4), (5, 16)])
def test_a_convolution_of_chunks_is_torchs_own(kernel: int, steps: int) -> None:
    torch.manual_seed(0)
    ours, plain = Convolution(6, 10, kernel), nn.Conv1d(6, 10, kernel, padding=kernel // 2)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, steps)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    weights = torch.randn(2, 10, steps)
    (ours(mine) * weights).sum().backward()
    (plain(theirs) * weights).sum().backward()
    torch.testing.assert_close(ours(x), plain(x))
    torch.testing.assert_close(mine.grad, theirs.grad)
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad)
    torch.testing.assert_close(ours.bias.grad, plain.bias.grad)


def test_a_convolution_of_chunks_under_autocast_gives_halves() -> None:
    ours = Convolution(6, 10, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(torch.randn(2, 6, 8)).dtype == torch.bfloat16


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_dropout_drops_the_share_it_was_told_and_scales_the_rest(p: float) -> None:
    torch.manual_seed(0)
    n = 400_003  # no multiple of four
    out = dropout(torch.ones(n), p)
    kept = out[out != 0]
    assert abs(1 - len(kept) / n - p) < 5 * (p * (1 - p) / n) ** 0.5
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)), rtol=1e-3, atol=0)
    # The four elements of a draw know nothing of each other: all four, or two neighbours, fall by chance alone.
    gone = (out[: n // 4 * 4].view(-1, 4) == 0).float()
    together = (gone[:, :3] * gone[:, 1:]).mean(0)
    assert ((together - p * p).abs() < 5 * (p * p * (1 - p * p) / (n // 4)) ** 0.5).all()


def test_dropout_is_a_function_of_the_seed_and_sends_gradients_through_what_it_kept() -> None:
    x = torch.randn(7, 11, requires_grad=True)
    torch.manual_seed(3)
    first = dropout(x, 0.3)
    torch.manual_seed(3)
    again = dropout(x, 0.3)
    assert torch.equal(first, again)
    assert not torch.equal(first, dropout(x, 0.3))
    first.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x.detach(), first.detach())


def test_dropout_leaves_alone_what_it_should() -> None:
    x = torch.randn(5)
    layer = Dropout(0.4)
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(dropout(x, 0.0), x)
    assert torch.equal(dropout(x, 1.0), torch.zeros(5))
    assert dropout(torch.zeros(0), 0.5).shape == (0,)
    half = torch.ones(1000, dtype=torch.bfloat16)
    assert dropout(half, 0.5).dtype == torch.bfloat16
