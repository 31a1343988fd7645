from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from domains.policy.data.lerobot import LeRobotDemonstrations
from flowkit.errors import UserError

for name in ("av", "pandas", "pyarrow"):
    pytest.importorskip(name)


def _files():
    """The writer beside this test: with importlib mode a test's folder is not on the path."""
    spec = importlib.util.spec_from_file_location("lerobot_files", Path(__file__).with_name("lerobot_files.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


files = _files()
VERSIONS = tuple(files.WRITERS)


@pytest.fixture(params=VERSIONS)
def made(request, tmp_path):
    return files.WRITERS[request.param](tmp_path / "set")


def source(made, **options):
    return LeRobotDemonstrations(str(made.folder), cache=str(made.folder.parent / "cache"), **options)


def test_rows_frames_and_tasks_come_back(made):
    data = source(made, keys=[files.STATE, files.PICTURE, files.VIDEO, "observation.phase", "task_index"])
    episodes = data.recorded
    assert episodes.lengths.tolist() == list(files.LENGTHS)
    assert episodes.successes.tolist() == [1, 0, 1]
    assert episodes.layout.state == (("observation.phase", 1), (files.STATE, 3), ("task_index", 2))
    assert episodes.layout.discrete == (("task_index", (2,), (0,)),)
    top, wrist = (np.asarray(episodes.observations[f"image/{key}"]) for key in (files.VIDEO, files.PICTURE))
    for episode, (start, end) in enumerate(zip(episodes.starts, episodes.ends, strict=True)):
        state = episodes.observations["state"][start:end]
        assert (state[:, 1:4] == made.states[episode]).all()
        assert state[:, 0] == pytest.approx(np.arange(end - start) / 10)
        assert (state[:, 4:] == np.eye(2)[made.tasks[episode]]).all()
        assert (episodes.actions[start:end] == made.actions[episode]).all()
        assert (wrist[start:end] == made.pictures[episode]).all()
        # A neighbouring frame differs by 5 levels everywhere and by 100 and more where its bar is.
        difference = np.abs(top[start:end].astype(int) - made.frames[episode].astype(int))
        assert np.median(difference, axis=(1, 2, 3)).max() <= 2
        assert difference.mean(axis=(1, 2, 3)).max() < 2
    statistics = data.statistics()
    assert statistics["tasks"] == list(files.TASKS)
    assert statistics["fps"] == 10
    assert statistics["action_low"] == [None, None]
    assert json.loads(json.dumps(statistics, allow_nan=False)) == statistics


@pytest.mark.skipif("libsvtav1" not in files.av.codecs_available, reason="no encoder of AV1 here")
def test_av1_as_lerobot_writes_it(made):
    for path in made.folder.glob("videos/**/*.mp4"):
        with files.av.open(str(path)) as container:
            frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        files.write_video(path, frames, codec="libsvtav1", options={"g": "2", "crf": "10"})
    episodes = source(made, keys=[files.VIDEO]).recorded
    difference = np.abs(
        np.asarray(episodes.observations[f"image/{files.VIDEO}"]).astype(int) - np.concatenate(made.frames)
    )
    assert np.median(difference, axis=(1, 2, 3)).max() <= 2


def test_both_versions_of_the_same_data_are_equal(tmp_path):
    first, second = (source(files.WRITERS[version](tmp_path / version)).recorded for version in VERSIONS)
    assert first.layout == second.layout
    assert (first.actions == second.actions).all()
    for name in first.observations:
        assert (
            np.abs(np.asarray(first.observations[name], float) - np.asarray(second.observations[name], float)).mean()
            < 1
        )


def test_all_observations_are_the_default_and_can_be_renamed_and_scaled(made):
    assert source(made).features == sorted([files.STATE, files.PICTURE, files.VIDEO, "observation.phase"])
    episodes = source(
        made,
        keys=[files.STATE, files.VIDEO],
        names={files.STATE: "agent_pos", files.VIDEO: "pixels"},
        size=[24, 32],
        environment="gym_pusht/PushT-v0",
        action_low=[-1],
        action_high=[1],
    ).recorded
    assert episodes.layout.state == (("agent_pos", 3),)
    assert episodes.layout.images == (("pixels", 24, 32),)
    assert episodes.environment == "gym_pusht/PushT-v0"
    assert episodes.action_low.tolist() == [-1, -1]
    frames = np.concatenate(made.frames).astype(float).reshape(-1, 24, 2, 32, 2, 3).mean(axis=(2, 4))
    assert np.abs(np.asarray(episodes.observations["image/pixels"]) - frames).mean() < 2


def test_plain_vector_layout(made):
    episodes = source(made, keys=[files.STATE], names={files.STATE: ""}).recorded
    assert episodes.layout.state == (("", 3),)
    assert (episodes.observations["state"] == np.concatenate(made.states)).all()


def test_converted_once_and_again_when_a_file_changed(made, monkeypatch):
    data = source(made, keys=[files.STATE])
    data.prepare()
    folder = data.folder
    with monkeypatch.context() as patch:
        patch.setattr(LeRobotDemonstrations, "convert", lambda *_: pytest.fail("converted twice"))
        source(made, keys=[files.STATE]).prepare()
    path = next(made.folder.glob("data/*/*.parquet"))
    path.touch()
    assert source(made, keys=[files.STATE]).folder != folder


def test_pandas_names_of_the_task_column(tmp_path):
    made = files.write_v3(tmp_path / "set", videos=False)
    table = files.pd.read_parquet(made.folder / "meta/tasks.parquet")
    assert files.pq.read_schema(made.folder / "meta/tasks.parquet").names[-1] == "__index_level_0__"
    assert source(made).tasks() == list(files.TASKS)
    table.index.name = "task"
    table.to_parquet(made.folder / "meta/tasks.parquet")
    assert source(made).tasks() == list(files.TASKS)


def refused(made, *parts, **options):
    with pytest.raises(UserError) as caught:
        source(made, **options).prepare()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    assert not list((made.folder.parent / "cache").rglob("manifest.json"))
    return message


def change_info(made, **changes):
    path = made.folder / "meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def cut(path: Path, share: float = 0.5):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path.name


def test_truncated_and_missing_tables(made):
    path = sorted(made.folder.glob("data/*/*.parquet"))[-1]
    content = path.read_bytes()
    refused(made, cut(path), "no whole parquet file", keys=[files.STATE])
    path.write_bytes(b"")
    refused(made, path.name, keys=[files.STATE])
    path.unlink()
    refused(made, path.name, "No such file", keys=[files.STATE])
    path.write_bytes(content)
    source(made, keys=[files.STATE]).prepare()


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_and_missing_videos(made, share):
    path = sorted(made.folder.glob("videos/**/*.mp4"))[-1]
    refused(made, cut(path, share), "video", keys=[files.VIDEO])
    path.unlink()
    refused(made, path.name, "No such file", keys=[files.VIDEO])


def test_a_video_that_ends_too_early(made):
    path = sorted(made.folder.glob("videos/**/*.mp4"))[-1]
    files.write_video(path, made.frames[-1][:6])
    refused(made, path.name, "no frame within 0.05 s of 0.6000 s", keys=[files.VIDEO])


def test_a_video_of_another_rate_or_size(made):
    path = sorted(made.folder.glob("videos/**/*.mp4"))[-1]
    files.write_video(path, made.frames[-1], fps=4)
    refused(made, path.name, "no frame within", keys=[files.VIDEO])
    features = files.features(True)
    features[files.VIDEO]["shape"] = [40, 64, 3]
    change_info(made, features=features)
    refused(made, ".mp4", "has pictures of 48 x 64, meta/info.json says 40 x 64", keys=[files.VIDEO])


@pytest.mark.parametrize("version", ["v1.6", "v4.0", ""])
def test_other_versions_are_refused(made, version):
    change_info(made, codebase_version=version)
    refused(made, "info.json", f"codebase_version is {version!r}")


def test_frame_rate_that_is_not_the_rows(made):
    change_info(made, fps=30)
    refused(made, "info.json", "fps is 30, and 10 for the video")
    features = files.features(True)
    features[files.VIDEO]["info"] = {}
    change_info(made, features=features)
    refused(made, ".parquet", "episode 0 frame 1 is at 0.1000 s", "fps 30", keys=[files.STATE])
    change_info(made, fps=0)
    refused(made, "info.json", "fps is 0")


def test_missing_features_and_columns(made):
    refused(made, "info.json", "did you mean 'observation.state'", keys=["observation.stat"])
    refused(made, "info.json", "has no feature 'actions'", "did you mean 'action'", action="actions")
    refused(made, "info.json", "'language' is string", keys=["language"])
    refused(made, "info.json", "has no feature 'state'", names={"state": "x"})
    features = files.features(True)
    features["observation.force"] = {"dtype": "float32", "shape": [3], "names": None}
    change_info(made, features=features)
    refused(made, ".parquet", "has no column 'observation.force'", keys=["observation.force"])


def rewrite(made, change):
    """Apply ``change`` to every data table."""
    for path in made.folder.glob("data/*/*.parquet"):
        files.pq.write_table(change(files.pq.read_table(path)), path)


def test_nan_actions_wrong_sizes_and_task_numbers(made):
    def with_nan(table):
        values = np.stack(table.column("action").to_numpy())
        values[table.column("episode_index").to_numpy() == 1] = np.nan
        place = table.schema.get_field_index("action")
        return table.set_column(place, "action", files.pa.array(list(values), type=files.pa.list_(files.pa.float32())))

    rewrite(made, with_nan)
    refused(made, ".parquet", "episode 1 frame 0 has a NaN, missing or infinite 'action'", keys=[files.STATE])
    features = files.features(True)
    features[files.STATE]["shape"] = [4]
    change_info(made, features=features)
    refused(made, ".parquet", "has 21 values of 'observation.state' for 7 frames", keys=[files.STATE])
    place = 9

    def with_task(table):
        return table.set_column(
            table.schema.get_field_index("task_index"), "task_index", files.pa.array(np.full(table.num_rows, place))
        )

    rewrite(made, with_task)
    refused(made, ".parquet", "task_index reaches 9, meta lists 2 tasks", keys=["task_index"])


def test_rows_that_are_missing_or_out_of_order(made):
    rewrite(made, lambda table: table.slice(0, table.num_rows - 1))
    refused(made, ".parquet", "metadata says", keys=[files.STATE])


def test_a_folder_that_is_no_data_set(tmp_path):
    with pytest.raises(UserError, match="the folder that holds meta/ and data/"):
        LeRobotDemonstrations(str(tmp_path), cache=str(tmp_path)).prepare()
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text("[")
    with pytest.raises(UserError, match="is not JSON"):
        LeRobotDemonstrations(str(tmp_path), cache=str(tmp_path)).prepare()
    (tmp_path / "meta/info.json").write_text('{"codebase_version": "v3.0"}')
    with pytest.raises(UserError, match="lacks fps or features"):
        LeRobotDemonstrations(str(tmp_path), cache=str(tmp_path)).prepare()


def test_broken_episode_lists(tmp_path):
    made = files.write_v2(tmp_path / "two", videos=False)
    (made.folder / "meta/episodes.jsonl").write_text('{"episode_index": 0}\n')
    refused(made, "episodes.jsonl", "without 'length'")
    change_info(made, data_path="data/{nothing}.parquet")
    (made.folder / "meta/episodes.jsonl").write_text('{"episode_index": 0, "length": 7}\n')
    refused(made, "info.json", "data_path")
    made = files.write_v3(tmp_path / "three", videos=False)
    cut(made.folder / "meta/episodes/chunk-000/file-001.parquet")
    refused(made, "meta/episodes/chunk-000/file-001.parquet")


def test_rows_of_unequal_lengths_do_not_move_into_each_other(made):
    def ragged(table):
        # One frame too many and one too few: together as many values as there should be.
        rows = [[1.0, 2.0, 3.0], [4.0], *([[5.0, 6.0]] * (table.num_rows - 2))]
        column = files.pa.array(rows, type=files.pa.list_(files.pa.float32()))
        return table.set_column(table.schema.get_field_index("action"), "action", column)

    rewrite(made, ragged)
    refused(made, ".parquet", "episode 0 has frames", "'action'", keys=[files.STATE])


def test_columns_that_are_no_numbers(made):
    refused(made, "info.json", "'language' is string, actions are numbers", keys=[files.STATE], action="language")
    refused(made, "info.json", "is video, actions are numbers", keys=[files.STATE], action=files.VIDEO)

    def text(table):
        place = table.schema.get_field_index(files.STATE)
        return table.set_column(place, files.STATE, files.pa.array(["a"] * table.num_rows))

    rewrite(made, text)
    refused(made, ".parquet", "holds string, numbers are expected", keys=[files.STATE])


@pytest.mark.parametrize("shape", [None, "ab", [0], [2.5]])
def test_shapes_that_are_none(made, shape):
    features = files.features(True)
    features[files.STATE]["shape"] = shape
    change_info(made, features=features)
    refused(made, "info.json", "positive numbers are expected", keys=[files.STATE])


def test_an_episode_that_is_listed_twice_is_refused(tmp_path):
    # The copies might go to different splits.
    made = files.write_v2(tmp_path / "two", videos=False)
    path = made.folder / "meta/episodes.jsonl"
    path.write_text(path.read_text() + path.read_text())
    refused(made, "episodes.jsonl", "episode 0 twice")
    path.write_text('{"episode_index": null, "length": 7}\n')
    refused(made, "episodes.jsonl", "episode_index is None")
    made = files.write_v3(tmp_path / "three", videos=False)
    path = made.folder / "meta/episodes/chunk-000/file-001.parquet"
    files.pq.write_table(files.pq.read_table(made.folder / "meta/episodes/chunk-000/file-000.parquet"), path)
    refused(made, "meta/episodes", "episode 0 twice")
