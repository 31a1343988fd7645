from __future__ import annotations

import numpy as np
import pytest

from domains.video.data.clips import SPLITS
from domains.video.data.rendered import PART, Rendered, RenderedSource, Scene
from flowkit.errors import UserError


class Noise(Scene):
    renderer = "noise"

    def __init__(self, source):
        self.source, self.drawn = source, []

    def render(self, seed):
        if len(self.drawn) == self.source.breaks_after:
            raise KeyboardInterrupt
        self.drawn.append(seed)
        source, rng = self.source, np.random.default_rng(seed)
        frames = rng.integers(0, 256, (source.length, 3, source.size, source.size), dtype=np.uint8)
        actions = rng.normal(size=(source.length - 1, 2)).astype(np.float32)
        states = np.arange(source.length, dtype=np.float32)[:, None]
        return Rendered(frames, actions, states, {"kind": int(seed % 7), "pair": [1, int(seed % 3)]})


class NoiseSource(RenderedSource):
    source = "noise"

    def __init__(self, breaks_after=-1, **options):
        super().__init__(**{"length": 6, "frames": 4, "size": 8, "clips": 45, "validation": 3, "test": 4, **options})
        self.breaks_after, self.scenes = breaks_after, []

    def open_scene(self):
        scene = Noise(self)
        self.scenes.append(scene)
        return scene

    def describe(self, starts):
        return {"first": self.mapped.states[starts, 0]}


def test_clips_are_cut_from_what_was_drawn(tmp_path):
    data = NoiseSource(cache=str(tmp_path), stride=1, hop=1, seed=3)
    parts = {name: data.split(name) for name in SPLITS}
    assert [len(parts[name]) for name in SPLITS] == [45 * 3, 3, 4]
    batch = parts["train"].batch(range(3, 6))
    first = data.open_scene().render(data.scenes[0].drawn[1])
    for row in range(3):
        assert np.array_equal(batch["frames"][row], first.frames[row : row + 4])
        assert np.array_equal(batch["actions"][row], first.actions[row : row + 3])
    known = parts["train"].attributes(range(3, 6))
    assert known["video"].tolist() == [1, 1, 1]
    assert known["first"].tolist() == [0, 1, 2]
    assert known["pair"].tolist() == [[1, data.scenes[0].drawn[1] % 3]] * 3
    seeds = data.scenes[0].drawn
    assert len(set(seeds)) == 52
    assert data.statistics()["renderer"] == "noise"
    assert data.statistics()["actions"] == 2


def test_drawing_goes_on_where_it_was_interrupted(tmp_path):
    whole = NoiseSource(cache=str(tmp_path / "a"))
    digest = whole.statistics()["digest"]
    broken = NoiseSource(cache=str(tmp_path / "b"), breaks_after=PART + 5)
    with pytest.raises(KeyboardInterrupt):
        broken.prepare()
    assert not broken.folder_of_frames.exists()
    again = NoiseSource(cache=str(tmp_path / "b"))
    assert again.statistics()["digest"] == digest
    assert again.scenes[0].drawn == whole.scenes[0].drawn[PART:]
    assert [path.name for path in (tmp_path / "b" / "video").iterdir()] == [again.folder_of_frames.name]
    third = NoiseSource(cache=str(tmp_path / "b"))
    assert np.array_equal(third.split("test").batch([1])["frames"], whole.split("test").batch([1])["frames"])
    assert not third.scenes


def test_a_clip_is_a_function_of_seed_split_and_number(tmp_path):
    few = NoiseSource(cache=str(tmp_path), clips=5)
    many = NoiseSource(cache=str(tmp_path), clips=25, validation=30)
    other = NoiseSource(cache=str(tmp_path), clips=5, seed=1)
    assert len({source.folder_of_frames for source in (few, many, other)}) == 3
    for name in SPLITS:
        frames = few.split(name).batch([1])["frames"]
        assert np.array_equal(frames, many.split(name).batch([1])["frames"])
        assert not np.array_equal(frames, other.split(name).batch([1])["frames"])
    assert few.statistics()["digest"] != many.statistics()["digest"]


@pytest.mark.slow
def test_workers_draw_the_same(tmp_path):
    alone, helped = (NoiseSource(cache=str(tmp_path / str(workers)), workers=workers) for workers in (0, 2))
    assert alone.statistics()["digest"] == helped.statistics()["digest"]
    assert not helped.scenes


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"frames": 7}, "length is 6.*need 7"),
        ({"stride": 2}, "length is 6.*stride 2 need 7"),
        ({"clips": 0}, "0 clips in the train split"),
        ({"workers": -1}, "workers is -1"),
        ({"flips": True}, "flips is true"),
    ],
)
def test_bad_arguments_get_one_line(options, reason, tmp_path):
    with pytest.raises(UserError, match=reason):
        NoiseSource(cache=str(tmp_path), **options).split("train")
