"""Clips kept in memory are the source's clips."""

from __future__ import annotations

import pytest
import torch

from domains.video.data.resident import ResidentClips
from domains.video.data.sprites import BouncingSprites
from flowkit.errors import UserError
from flowkit.train.loader import Loader, pin


def source(clips: int = 9) -> BouncingSprites:
    return BouncingSprites(frames=4, size=16, sprites=1, clips=clips, validation=3, test=2)


def test_training_clips_are_those_of_the_source_and_are_read_once(monkeypatch):
    whole = source()
    data = ResidentClips(whole, device="cpu")
    kept, drawn = data.split("train"), whole.split("train")
    assert len(kept) == 9
    rows = [8, 0, 3, 3]
    for name, value in drawn.batch(rows).items():
        assert torch.equal(kept.batch(rows)[name], value)
    assert (kept.attributes([2])["classes"] == drawn.attributes([2])["classes"]).all()  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr(whole, "split", lambda name: pytest.fail("read again"))
    assert data.split("train") is kept


def test_other_splits_stay_with_the_source():
    data = ResidentClips(source(), device="cpu")
    assert len(data.split("validation")) == 3
    assert torch.equal(data.split("test").batch([1])["frames"], source().split("test").batch([1])["frames"])


def test_a_limit_keeps_the_first_clips_and_is_told():
    data = ResidentClips(source(), clips=4, device="cpu")
    assert len(data.split("train")) == 4
    assert data.statistics()["clips"] == {"train": 4, "validation": 3, "test": 2}
    assert source().statistics()["clips"]["train"] == 9
    with pytest.raises(UserError, match="clips is -1"):
        ResidentClips(source(), clips=-1)


def test_a_loader_reads_them_as_it_reads_the_source():
    mine = Loader(ResidentClips(source(), device="cpu").split("train"), batch=4, seed=3, threads=0)
    theirs = Loader(source().split("train"), batch=4, seed=3, threads=0)
    for _, a, b in zip(range(5), mine, theirs, strict=False):
        assert torch.equal(a.parts[0].raw["frames"], b.parts[0].raw["frames"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_they_stay_there():
    raw = ResidentClips(source()).split("train").batch([1, 2])
    assert raw["frames"].is_cuda
    assert pin(raw)["frames"] is raw["frames"]
