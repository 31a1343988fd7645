"""Clips from shards are the clips of the source: the same frames, numbers, actions, attributes and statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from domains.video.data.arrays import ArrayClips
from domains.video.data.clips import SPLITS, ClipSource
from domains.video.data.resident import ResidentClips
from domains.video.data.shards import VideoShards
from domains.video.data.sprites import BouncingSprites
from flowkit.cli.main import main
from flowkit.errors import UserError
from flowkit.shards.sharded import Sharded
from flowkit.shards.writer import write_shards


def arrays(tmp_path: Path, *, actions: bool, **options: Any) -> ArrayClips:
    draw = np.random.default_rng(0)
    named: dict[str, Any] = {"frames": draw.integers(0, 256, (6, 90, 16, 20, 3), dtype=np.uint8), "fps": 8.0}
    if actions:
        named["actions"] = draw.standard_normal((6, 89, 2)).astype(np.float32)
    np.savez(tmp_path / "videos.npz", **named)
    return ArrayClips(str(tmp_path / "videos.npz"), validation=0.2, test=0.2, cache=str(tmp_path / "cache"), **options)


def make(kind: str, tmp_path: Path) -> ClipSource:
    if kind == "sprites":
        return BouncingSprites(frames=5, size=16, sprites=2, clips=70, validation=9, test=4, stride=2)
    if kind == "actions":
        return arrays(tmp_path, actions=True, frames=4, stride=3, size=16, hop=2)
    return arrays(tmp_path, actions=False, frames=6, stride=2, size=8, windows=2, candidates=3, flips=True)


@pytest.mark.parametrize("kind", ["sprites", "actions", "squares"])
def test_clips_are_those_of_the_source(kind: str, tmp_path: Path) -> None:
    source = make(kind, tmp_path)
    source.prepare()
    index = write_shards(source.records(), [tmp_path / "a", tmp_path / "b"], size=96 * 1024, shown=False)
    assert len(index.shards) > 3
    data = VideoShards([str(tmp_path / "a"), str(tmp_path / "b")])
    for name in SPLITS:
        ours, theirs = data.split(name), source.split(name)
        assert len(ours) == len(theirs) > 1
        rows = np.random.default_rng(1).permutation(len(ours))[:40].tolist()
        a, b = ours.batch(rows), theirs.batch(rows)
        assert a.keys() == b.keys() == {"frames", "clip"} | ({"actions"} if kind == "actions" else set())
        assert all(torch.equal(a[key], b[key]) for key in a)
        known, expected = ours.attributes(rows), theirs.attributes(rows)
        assert known.keys() == expected.keys()
        assert all(np.array_equal(known[key], expected[key]) for key in known)
    statistics = dict(data.statistics())
    for key, value in source.statistics().items():
        assert key == "folder" or statistics[key] == value
    assert (statistics["shards"], statistics["damaged"]) == (len(index.shards), 0)


def test_frames_in_common_are_written_once(tmp_path: Path) -> None:
    source = make("squares", tmp_path)
    source.prepare()
    assert source.records().items == 6 * 90
    assert len(source.split("train")) * 6 > 5 * 6 * 90


def test_clips_with_damaged_frames_are_left_out(tmp_path: Path) -> None:
    source = make("actions", tmp_path)
    source.prepare()
    index = write_shards(source.records(), [tmp_path / "set"], size=96 * 1024, shown=False)
    shard = index.shards[2]
    path = tmp_path / "set" / shard.name
    content = bytearray(path.read_bytes())
    frame = shard.first + shard.items // 2
    content[int(index.items["offset"][frame]) + 5] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    whole = VideoShards([str(tmp_path / "set")])
    data = VideoShards([str(tmp_path / "set")], skip_damaged=True, cache=str(tmp_path))
    span = (4 - 1) * 3 + 1
    lost = 0
    for name in SPLITS:
        starts = whole.split(name).starts
        kept = starts[(starts > frame) | (starts + span <= frame)]
        assert data.split(name).starts.tolist() == kept.tolist()
        lost += len(starts) - len(kept)
        if len(kept):
            data.split(name).read(np.arange(len(kept)))
    assert data.statistics()["damaged"] == lost > 0
    shows = {name: (whole.split(name).starts[:, None] + 3 * np.arange(4) == frame).any(1) for name in SPLITS}
    name = next(name for name in SPLITS if shows[name].any())
    with pytest.raises(UserError, match=rf"item {frame - shard.first} of '.*{shard.name}' is not what was written"):
        whole.split(name).read(np.flatnonzero(shows[name]))


def test_a_source_of_other_kind_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWKIT_CACHE", str(tmp_path))
    assert main(["data", "shard", "generic/mixture-flow-matching", "--out", str(tmp_path / "x")]) == 2
    assert "cannot be written as shards" in capsys.readouterr().err
    assert main(["data", "shard", "video/smoke/river-sprites"]) == 2
    assert "needs --out FOLDER" in capsys.readouterr().err
    assert main(["data", "stats", "video/smoke/river-sprites", "--size", "3"]) == 2
    assert "--size belong" in capsys.readouterr().err


def test_other_sources_hold_shards(tmp_path: Path) -> None:
    source = make("sprites", tmp_path)
    write_shards(source.records(), [tmp_path / "set"], size=96 * 1024, shown=False)
    kept = ResidentClips(VideoShards([str(tmp_path / "set")]), clips=6, device="cpu").split("train")
    assert torch.equal(kept.batch([3])["frames"], source.split("train").batch([3])["frames"])


def test_a_source_by_way_of_shards_is_written_once(tmp_path: Path) -> None:
    source = make("sprites", tmp_path)
    for places in (None, [str(tmp_path / "a")]):
        data = Sharded(source, places=places, mib=0.1, window=3, cache=str(tmp_path))
        data.prepare()
        written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")}
        assert len(written) > 3
        again = Sharded(source, places=places, mib=0.1, window=0, cache=str(tmp_path))
        assert torch.equal(again.split("train").batch([5])["frames"], source.split("train").batch([5])["frames"])
        assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")}
        assert data.split("train").window == 3
        # A run that goes on with another window or another set is told so.
        assert data.split("train").about()["shards"] == again.split("train").about()["shards"]
        assert data.split("train").about() != again.split("train").about()
    with pytest.raises(UserError, match="VideoShards cannot be written as shards"):
        Sharded(VideoShards([str(tmp_path / "a")])).prepare()
