from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from domains.policy.data.cache import CachedDemonstrations, EpisodeWriter, read_episodes
from domains.policy.observations import ObservationLayout
from flowkit.errors import UserError

LAYOUT = ObservationLayout((("x", 2),), (("camera", 8, 6),))


class Made(CachedDemonstrations):
    """Two episodes with images; may be told to fail in the middle."""

    def __init__(self, *, tag: int = 0, broken: str = "", **options):
        super().__init__(**options)
        self.tag, self.broken = tag, broken

    def settings(self):
        return {"tag": self.tag}

    def convert(self, folder, settings):
        rng = np.random.default_rng(self.tag)
        with EpisodeWriter(folder, LAYOUT, actions=1) as writer:
            for length in (3, 4):
                parts = {
                    "state": rng.normal(size=(length, 2)),
                    "image/camera": rng.integers(0, 255, (length, 8, 6, 3), dtype=np.uint8),
                }
                actions = rng.normal(size=(length, 1))
                if self.broken == "nan":
                    actions[1] = np.nan
                elif self.broken == "stop" and length == 4:
                    raise KeyboardInterrupt
                elif self.broken == "rows":
                    actions = actions[:-1]
                writer.add(parts, actions, seed=2**63 + 5 if length == 4 else 11, success=length == 3)
            return writer.finish(action_low=np.full(1, -np.inf), action_high=np.ones(1), environment="E-v0")


def made(tmp_path: Path, **options) -> Made:
    return Made(cache=str(tmp_path), **options)


def test_what_was_written_is_read(tmp_path):
    episodes = made(tmp_path).recorded
    rng = np.random.default_rng(0)
    for start, length in ((0, 3), (3, 4)):
        assert (
            episodes.observations["state"][start : start + length] == rng.normal(size=(length, 2)).astype("f4")
        ).all()
        images = rng.integers(0, 255, (length, 8, 6, 3), dtype=np.uint8)
        assert (episodes.observations["image/camera"][start : start + length] == images).all()
        assert (episodes.actions[start : start + length] == rng.normal(size=(length, 1)).astype("f4")).all()
    assert episodes.layout == LAYOUT
    assert episodes.seeds.tolist() == [11, -1]  # the other has no place in a signed integer
    assert episodes.successes.tolist() == [1, 0]
    assert (episodes.action_low.tolist(), episodes.action_high.tolist()) == ([-np.inf], [1])
    assert episodes.environment == "E-v0"


def test_large_arrays_are_mapped_and_not_read(tmp_path):
    layout = ObservationLayout((), (("camera", 64, 64),))
    with EpisodeWriter(tmp_path, layout, actions=1) as writer:
        for level in range(4):
            images = np.full((100, 64, 64, 3), level, np.uint8)
            writer.add({"state": np.zeros((100, 0)), "image/camera": images}, np.zeros((100, 1)))
        episodes = writer.finish(action_low=np.zeros(1), action_high=np.ones(1))
    images = episodes.observations["image/camera"]
    assert isinstance(images, np.ndarray)
    assert not images.flags.owndata
    assert not images.flags.writeable
    assert images[:, 0, 0, 0].tolist() == np.repeat(range(4), 100).tolist()
    assert (np.load(tmp_path / "image-0.npy") == images).all()
    assert np.asarray(episodes.take([3, 1]).observations["image/camera"])[:, 5, 5, 1].tolist() == [3] * 100 + [1] * 100


@pytest.mark.parametrize(
    ("broken", "error", "message"),
    [
        ("nan", UserError, "episode 0 step 1"),
        ("rows", UserError, "has 3 rows for 2 actions"),
        ("stop", KeyboardInterrupt, None),
    ],
)
def test_a_conversion_that_fails_leaves_nothing(tmp_path, broken, error, message):
    with pytest.raises(error, match=message):
        made(tmp_path, broken=broken).prepare()
    assert list((tmp_path / "policy").iterdir()) == []
    assert len(made(tmp_path).recorded) == 2


def test_other_settings_have_another_folder(tmp_path):
    first, second = made(tmp_path, tag=1), made(tmp_path, tag=2)
    assert first.folder != second.folder
    assert not (first.recorded.actions == second.recorded.actions).all()


@pytest.mark.parametrize("damage", ["cut", "gone", "format", "text"])
def test_a_damaged_folder_says_what_to_do(tmp_path, damage):
    data = made(tmp_path)
    data.prepare()
    manifest = data.folder / "manifest.json"
    if damage == "cut":
        file = data.folder / "image-0.npy"
        file.write_bytes(file.read_bytes()[:-10])
    elif damage == "gone":
        (data.folder / "state.npy").unlink()
    elif damage == "format":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    else:
        manifest.write_text("{")
    with pytest.raises(UserError, match="delete the folder and prepare it again"):
        read_episodes(data.folder)


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "policy").write_text("a file is in the way")
    with pytest.raises(UserError, match="cannot write prepared demonstrations to"):
        made(tmp_path).prepare()
