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


def write_records(path, videos, actions):
    """As TensorFlow writes them: its record writer lives on in TensorBoard, its message is described here again."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from tensorboard.summary.writer.record_writer import RecordWriter

    file = descriptor_pb2.FileDescriptorProto(name="toy_example.proto", package="toy", syntax="proto3")

    def message(name, *fields):
        made = file.message_type.add(name=name)
        for number, (field, kind, repeated) in enumerate(fields, 1):
            label = 3 if repeated else 1
            named = {"type_name": f".toy.{kind}", "type": 11} if isinstance(kind, str) else {"type": kind}
            made.field.add(name=field, number=number, label=label, **named)
        return made

    message("BytesList", ("value", 12, True))
    message("FloatList", ("value", 2, True))
    message("Int64List", ("value", 3, True))
    message("Feature", ("bytes_list", "BytesList", False), ("float_list", "FloatList", False),
            ("int64_list", "Int64List", False))  # fmt: skip
    features = message("Features", ("feature", "Features.FeatureEntry", True))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=1, type=9)
    entry.field.add(name="value", number=2, label=1, type=11, type_name=".toy.Feature")
    message("Example", ("features", "Features", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    example = message_factory.GetMessageClass(pool.FindMessageTypeByName("toy.Example"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as opened:
        writer = RecordWriter(opened)
        for frames, done in zip(videos, actions, strict=True):
            record = example()
            feature = record.features.feature
            for i, (picture, action) in enumerate(zip(frames, done, strict=True)):
                feature[f"{i}/image_aux1/encoded"].bytes_list.value.append(picture.tobytes())
                feature[f"{i}/image_main/encoded"].bytes_list.value.append((255 - picture).tobytes())
                feature[f"{i}/action"].float_list.value.extend(action.tolist())
                feature[f"{i}/endeffector_pos"].float_list.value.extend([0.1, 0.2, 0.3])
                feature["length"].int64_list.value[:] = [i, -1]
            writer.write(record.SerializeToString())
    return path


def test_records_of_bair_are_read_as_the_archive_holds_them_with_their_actions(tmp_path):
    root, videos, actions = tmp_path / "softmotion30_44k", {}, {}
    for k, (name, count) in enumerate((("train", 3), ("test", 2))):
        videos[name] = [pictures(12, 64, 64, seed=10 * k + i) for i in range(count)]
        actions[name] = np.random.default_rng(k).normal(size=(count, 12, 4)).astype(np.float32)
        write_records(root / name / f"traj_0_to_{count - 1}.tfrecords", videos[name], actions[name])
    options = {"frames": 5, "stride": 2, "cache": str(tmp_path / "cache")}
    data = BAIR(str(root), **options)
    test = data.split("test")
    batch = test.batch(range(len(test)))
    for row, clip in enumerate(batch["frames"].numpy().transpose(0, 1, 3, 4, 2)):
        video = row * 2 // len(test)
        start = int(test.starts[row]) % 12
        assert np.array_equal(clip, videos["test"][video][start : start + 9 : 2])
        done = actions["test"][video][start : start + 8].reshape(4, 8)
        assert np.array_equal(batch["actions"][row].numpy(), done), "both actions between two frames"
    assert data.statistics()["actions"] == 8
    assert data.statistics()["videos"] == {"train": 2, "validation": 1, "test": 2}
    other = BAIR(str(root), view="image_main", **options).split("test").batch([0])["frames"]
    assert np.array_equal(other, 255 - batch["frames"][:1])
    with pytest.raises(UserError, match="direct is true: BAIR"):
        BAIR(str(root), direct=True, **options).prepare()


def test_damaged_records_of_bair_get_one_line(tmp_path):
    cache = str(tmp_path / "cache")
    good = write_records(tmp_path / "good" / "train" / "a.tfrecords", [pictures(4, 64, 64)], [np.ones((4, 4))])
    whole = good.read_bytes()
    for number, (content, said) in enumerate(
        (
            (whole[:-100], "is cut short"),
            (b"x" + whole[1:], "no file of TensorFlow's records"),
            (whole[:5], "no file of TensorFlow's records"),
            (whole[:40] + b"\xff" * 20 + whole[60:], "damaged"),
        )
    ):
        path = tmp_path / str(number) / "train" / "a.tfrecords"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        with pytest.raises(UserError, match=said) as caught:
            BAIR(str(path.parent.parent), frames=3, cache=cache).prepare()
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    small = write_records(tmp_path / "small" / "train" / "a.tfrecords", [pictures(4, 32, 32)], [np.ones((4, 4))])
    with pytest.raises(UserError, match="not BAIR's set"):
        BAIR(str(small.parent.parent), frames=3, cache=cache).prepare()


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
