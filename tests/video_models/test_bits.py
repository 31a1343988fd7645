"""Bits per dimension of the next frame: which bytes, under which condition, in which bins."""

from __future__ import annotations

import pytest
import torch
from tiny_video import TinySource, tiny_task

from domains.video.river import scaled
from flowkit.errors import UserError
from flowkit.metrics.dequantisers import TruncatedNormal
from flowkit.nn.codec import IdentityCodec
from flowkit.train.bits import bits_per_dimension


def frames(n: int = 2, k: int = 5) -> torch.Tensor:
    return torch.randint(0, 256, (n, k, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("patch", [1, 2])
def test_the_codes_are_the_last_frame_and_lie_in_the_middle_of_their_bins(patch):
    task, clip = tiny_task(codec=IdentityCodec(patch=patch)), frames()
    codes, cond = task.codes({"frames": clip})
    latents = task.encode(clip)
    assert torch.allclose(task.levels.centres(codes), latents[:, -1], atol=1e-6)
    assert torch.allclose(task.codec.decode(task.levels.centres(codes)), scaled(clip[:, -1]), atol=1e-6)
    assert torch.equal(cond["reference"], latents[:, -2])
    assert torch.equal(cond["past"], latents[:, -3])
    assert cond["distance"].tolist() == [1, 1]


def test_it_is_measured_on_a_split():
    task = tiny_task()
    found = bits_per_dimension(task, TinySource().split("test"), dequantiser=TruncatedNormal(), limit=1, tolerance=0.1)
    assert found["samples"] == 1.0
    assert 0.0 < found["bpd"] < 30.0


def test_latents_of_an_autoencoder_are_refused():
    task = tiny_task()
    task.codec = torch.nn.Identity()
    with pytest.raises(UserError, match="bits per dimension are of pixels: no Identity, but IdentityCodec"):
        task.codes({"frames": frames()})
