from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from domains.video.data.jitter import ColourJitter, turn_hue
from flowkit.errors import UserError
from flowkit.random import Rows


def clips(n=4, k=3):
    return torch.randint(0, 256, (n, k, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_hues_turn_as_in_the_standard_library():
    x = clips(2).double() / 255
    turned = turn_hue(x, torch.tensor(0.3, dtype=torch.float64))
    for pixel, after in zip(
        x.movedim(2, -1).reshape(-1, 3).tolist(), turned.movedim(2, -1).reshape(-1, 3).tolist(), strict=True
    ):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        assert after == pytest.approx(colorsys.hsv_to_rgb((h + 0.3) % 1, s, v), abs=1e-9)
    # A full circle, and pixels without a hue.
    assert torch.allclose(turn_hue(x, torch.tensor(1.0)), x)
    grey = x[:, :, :1].expand_as(x)
    assert torch.allclose(turn_hue(grey, torch.tensor(0.4)), grey)


def test_all_frames_of_a_clip_change_alike_and_clips_differ():
    jitter = ColourJitter(brightness=0.1, contrast=0.1, saturation=0.1, hue=0.25)
    still = clips(6, 1).expand(6, 3, 3, 6, 5)
    out = jitter(still, Rows(3, total=6))
    assert out.dtype == torch.uint8
    assert torch.equal(out[:, 0], out[:, 2])
    same = still[:1].expand(6, 3, 3, 6, 5)
    assert len({clip.numpy().tobytes() for clip in jitter(same, Rows(3, total=6))}) == 6


def test_the_change_is_a_function_of_seed_and_row():
    jitter, frames = ColourJitter(hue=0.25, brightness=0.2), clips(6)
    whole = jitter(frames, Rows(3, total=6))
    assert torch.equal(jitter(frames[4:], Rows(3, first=4, total=6)), whole[4:])
    assert not torch.equal(jitter(frames, Rows(4, total=6)), whole)


def test_each_change_keeps_what_it_should():
    frames = (clips(200) // 4 + 90).clamp(0, 255)
    bright = ColourJitter(brightness=0.2)(frames, Rows(0, total=200)).float() / frames
    spread = bright.amax((1, 2, 3, 4)) - bright.amin((1, 2, 3, 4))
    assert float(spread.max()) < 0.02
    factors = bright.mean((1, 2, 3, 4))
    assert 0.8 <= float(factors.min()) < 0.83
    assert 1.17 < float(factors.max()) <= 1.2

    def grey(x):
        return (x.float() * torch.tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)).sum(2)

    saturated = ColourJitter(saturation=0.3)(frames, Rows(0, total=200))
    assert float((grey(saturated) - grey(frames)).abs().max()) < 1
    assert not torch.equal(saturated, frames)
    contrasted = ColourJitter(contrast=0.3)(frames, Rows(0, total=200))
    means = (grey(contrasted) - grey(frames)).mean((1, 2, 3))
    assert float(means.abs().max()) < 0.3
    stretched = grey(contrasted).std((1, 2, 3)) / grey(frames).std((1, 2, 3))
    assert 0.7 <= float(stretched.min()) < 0.75
    assert 1.25 < float(stretched.max()) < 1.31


def test_nothing_is_drawn_where_nothing_changes():
    rows, frames = Rows(0, total=4), clips()
    assert ColourJitter()(frames, rows) is frames
    assert rows.draws == 0
    with pytest.raises(UserError, match="3 channels, the data has 1"):
        ColourJitter(hue=0.1)(frames[:, :, :1], rows)
    with pytest.raises(UserError, match=r"hue must lie in 0 to 0\.5, not 0\.7"):
        ColourJitter(hue=0.7)
    assert np.isfinite(ColourJitter(hue=0.5)(torch.zeros_like(frames), rows).numpy()).all()
