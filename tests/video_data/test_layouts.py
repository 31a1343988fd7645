from __future__ import annotations

import numpy as np
import pytest
from made_videos import Kind, pictures, write_video
from PIL import Image

from domains.video.data.clips import SPLITS
from domains.video.data.layouts import BAIR, CLEVRER, KTH
from domains.video.data.reader import Fit, decode
from flowkit.errors import UserError

LOSSLESS = Kind("lossless.mkv", "ffv1", "bgr0", size=(24, 32))


def test_people_of_kth_are_in_one_split(tmp_path):
    root = tmp_path / "kth"
    for folder, person, scene in [("boxing", 1, 1), ("boxing", 17, 2), ("walking", 1, 3), ("walking", 5, 1)]:
        (root / folder).mkdir(parents=True, exist_ok=True)
        write_video(
            root / folder / f"person{person:02d}_{folder}_d{scene}_uncomp.avi", Kind("", "mpeg4", "yuv420p"), 12
        )
    write_video(root / "other.avi", LOSSLESS, 12)
    data = KTH(str(root), frames=5, size=16, validation=0.5, cache=str(tmp_path / "cache"))
    known = {name: data.split(name).attributes(range(len(data.split(name)))) for name in SPLITS}
    people = {name: set(labels["person"].tolist()) for name, labels in known.items()}
    assert people["test"] == {17}
    assert sorted(people["train"] | people["validation"]) == [1, 5]
    assert not people["train"] & people["validation"]
    assert known["test"]["action"].tolist() == [0, 0]
    assert known["test"]["scene"].tolist() == [2, 2]
    assert data.statistics()["videos"]["test"] == 1


def test_numbers_of_clevrer_decide_the_split(tmp_path):
    numbers = {"train": (0, 9999), "validation": (10_000,), "test": (15_000, 19_999)}
    for number in sum(numbers.values(), ()):
        folder = tmp_path / "clevrer" / f"video_{number // 1000 * 1000:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        write_video(folder / f"video_{number:05d}.mp4", Kind("", "libx264", "yuv420p"), 12)
    data = CLEVRER(str(tmp_path / "clevrer"), frames=3, size=16, cache=str(tmp_path / "cache"))
    for name, expected in numbers.items():
        samples = data.split(name)
        assert sorted(set(samples.attributes(range(len(samples)))["number"].tolist())) == list(expected)
    last = data.split("test").batch([len(data.split("test")) - 1])["frames"][0].numpy()
    every = np.stack(list(decode(tmp_path / "clevrer" / "video_19000" / "video_19999.mp4", Fit(16))))
    assert np.array_equal(last, every[0:11:5])


def test_pictures_of_bair_are_read_in_the_order_of_their_numbers(tmp_path):
    root = tmp_path / "bair"
    made = {}
    for k, name in enumerate(
        ["train/traj_0_to_255/0", "train/traj_0_to_255/1", "train/traj_0_to_255/2", "test/traj_0_to_255/0"]
    ):
        (root / name).mkdir(parents=True)
        made[name] = pictures(12, 16, 16, seed=k)
        for i, picture in enumerate(made[name]):
            Image.fromarray(picture).save(root / name / f"{i}.png")
    data = BAIR(str(root), frames=12, size=16, cache=str(tmp_path / "cache"))
    test = data.split("test").batch([0])["frames"][0].numpy()
    assert np.array_equal(test.transpose(0, 2, 3, 1), made["test/traj_0_to_255/0"])
    assert len(data.split("train")) == 2
    assert len(data.split("validation")) == 1
    assert data.statistics()["fps"] == 0
    with pytest.raises(UserError, match=r"leave data\.init_args\.fps at 0"):
        BAIR(str(root), frames=4, size=16, fps=5.0, cache=str(tmp_path / "cache")).prepare()


def test_a_broken_picture_is_named(tmp_path):
    for name in ("train/0", "train/1"):
        (tmp_path / "bair" / name).mkdir(parents=True)
        (tmp_path / "bair" / name / "0.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"0\.png"):
        BAIR(str(tmp_path / "bair"), cache=str(tmp_path / "cache")).prepare()


@pytest.mark.parametrize("layout", [KTH, CLEVRER, BAIR])
def test_another_folder_gets_one_line(layout, tmp_path):
    with pytest.raises(UserError, match="no folder"):
        layout(str(tmp_path / "none")).prepare()
    write_video(tmp_path / "a.mkv", LOSSLESS, 3)
    (tmp_path / "b").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "b" / "0.png")
    with pytest.raises(UserError, match=f"is not {layout.__name__}"):
        layout(str(tmp_path)).prepare()
