from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from gymnasium import spaces

from domains.policy.data.minari import MinariDemonstrations, environment_of
from domains.policy.data.minari_writer import RecordedEpisode, write_minari
from flowkit.errors import UserError

minari = pytest.importorskip("minari")
pytest.importorskip("h5py")
FORMATS = ("hdf5", "arrow", "parquet")
ACTIONS = spaces.Box(-1, 2, (2,), dtype=np.float32)
NESTED = spaces.Dict(
    {
        "arm": spaces.Dict(
            {"angles": spaces.Box(-9, 9, (3,)), "camera": spaces.Box(0, 255, (32, 40, 3), dtype=np.uint8)}
        ),
        "grip": spaces.Discrete(2),
        "pair": spaces.Tuple([spaces.Box(-9, 9, (1,)), spaces.Box(-9, 9, (2, 2))]),
    }
)


def plain(length: int, rng: np.random.Generator, **more) -> RecordedEpisode:
    truncations = np.zeros(length, bool)
    truncations[-1] = True
    return RecordedEpisode(
        rng.normal(size=(length + 1, 3)).astype(np.float32),
        rng.normal(size=(length, 2)).astype(np.float32),
        rng.normal(size=length),
        np.zeros(length, bool),
        truncations,
        **more,
    )


def nested(length: int, rng: np.random.Generator, **more) -> RecordedEpisode:
    episode = plain(length, rng, **more)
    rows = length + 1
    observations = {
        "arm": {
            "angles": rng.normal(size=(rows, 3)).astype(np.float32),
            "camera": rng.integers(0, 255, (rows, 32, 40, 3), dtype=np.uint8),
        },
        "grip": rng.integers(0, 2, rows),
        "pair": (rng.normal(size=(rows, 1)).astype(np.float32), rng.normal(size=(rows, 2, 2)).astype(np.float32)),
    }
    return RecordedEpisode(
        observations, episode.actions, episode.rewards, episode.terminations, episode.truncations, **more
    )


def write(root, episodes, dataset_id="fork/expert-v0", space=None, **options):
    return write_minari(
        dataset_id,
        episodes,
        observation_space=space or spaces.Box(-9, 9, (3,)),
        action_space=ACTIONS,
        root=str(root),
        **{"algorithm_name": "expert", "ref_min_score": 0.0, "ref_max_score": 1.0, **options},
    )


def read(root, dataset_id="fork/expert-v0", **options):
    return MinariDemonstrations(dataset_id, root=str(root), cache=str(root / "cache"), **options)


@pytest.mark.parametrize("data_format", FORMATS)
def test_nested_observations_and_images_come_back_equal(tmp_path, data_format):
    rng = np.random.default_rng(0)
    written = [nested(length, rng, seed=100 + length, success=length != 6) for length in (5, 6, 9)]
    folder = write(tmp_path, written, space=NESTED, data_format=data_format)
    assert json.loads((folder / "data" / "metadata.json").read_text())["data_format"] == data_format
    episodes = read(tmp_path).recorded
    assert episodes.lengths.tolist() == [5, 6, 9]
    assert episodes.seeds.tolist() == [105, 106, 109]
    assert episodes.successes.tolist() == [1, 0, 1]
    assert episodes.layout.state == (("arm/angles", 3), ("grip", 2), ("pair/0", 1), ("pair/1", 4))
    for episode, start, end in zip(written, episodes.starts, episodes.ends, strict=True):
        seen = episode.observations
        state = np.concatenate(
            [
                seen["arm"]["angles"],
                np.eye(2)[seen["grip"]],
                seen["pair"][0],
                seen["pair"][1].reshape(-1, 4),
            ],
            axis=1,
        )
        assert (episodes.observations["state"][start:end] == state[:-1].astype(np.float32)).all()
        assert (episodes.observations["image/arm/camera"][start:end] == seen["arm"]["camera"][:-1]).all()
        assert (episodes.actions[start:end] == episode.actions).all()
    assert episodes.action_low.tolist() == [-1, -1]
    assert episodes.action_high.tolist() == [2, 2]


@pytest.mark.parametrize("data_format", FORMATS)
def test_minari_itself_reads_what_was_written(tmp_path, monkeypatch, data_format):
    rng = np.random.default_rng(1)
    infos = {"success": np.array([0.0, 0, 0, 1]), "mode": np.arange(4)}
    written = [plain(3, rng, infos=infos, seed=7), plain(4, rng, infos={k: np.append(v, 0) for k, v in infos.items()})]
    write(tmp_path, written, env_spec="CartPole-v1", data_format=data_format, description="a test", author="me")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    found = minari.load_dataset("fork/expert-v0")
    assert found.total_episodes == 2
    assert found.total_steps == 7
    assert minari.list_local_datasets()["fork/expert-v0"]["algorithm_name"] == "expert"
    assert found.recover_environment().spec.id == "CartPole-v1"
    assert minari.get_normalized_score(found, np.array([0.5])).tolist() == [0.5]
    for episode, got in zip(written, found.iterate_episodes(), strict=True):
        assert (got.observations == episode.observations).all()
        assert (got.actions == episode.actions).all()
        assert (got.rewards == episode.rewards).all()
        assert (got.truncations == episode.truncations).all()
        assert got.infos["success"].tolist() == episode.infos["success"].tolist()
    episodes = read(tmp_path).recorded
    assert episodes.environment == "CartPole-v1"
    assert environment_of(tmp_path / "fork/expert-v0/data") == "CartPole-v1"
    assert episodes.seeds.tolist() == [7, -1]
    assert episodes.successes.tolist() == [1, 1]  # from the infos


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_collected_by_minari_with_jpeg_images(tmp_path, monkeypatch):
    """Made by Minari's own function with its defaults: images are then JPEG and change a little."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    ramp = np.linspace(0, 255, 40).astype(np.uint8)
    images = np.broadcast_to(ramp[None, None, :, None], (4, 32, 40, 3)).copy()
    from minari.data_collector.episode_buffer import EpisodeBuffer

    buffer = EpisodeBuffer(
        observations=list(images),
        actions=list(np.zeros((3, 2), np.float32)),
        rewards=[0.0] * 3,
        terminations=[False] * 3,
        truncations=[False, False, True],
    )
    minari.create_dataset_from_buffers(
        "camera-v1", [buffer], observation_space=spaces.Box(0, 255, (32, 40, 3), dtype=np.uint8), action_space=ACTIONS
    )
    episodes = MinariDemonstrations("camera-v1", cache=str(tmp_path / "cache")).recorded
    got = np.asarray(episodes.observations["image/image"]).astype(int)
    assert np.abs(got - images[:3]).max() < 12
    assert episodes.observations["state"].shape == (3, 0)


@pytest.mark.parametrize("data_format", FORMATS)
def test_appending_adds_episodes_and_the_cache_notices(tmp_path, data_format):
    rng = np.random.default_rng(2)
    first, second = [plain(4, rng, success=True)], [plain(5, rng, seed=3, success=False), plain(6, rng)]
    write(tmp_path, first, data_format=data_format)
    before = read(tmp_path)
    assert len(before.recorded) == 1
    folder = before.folder
    write(tmp_path, second, append=True)
    after = read(tmp_path)
    assert after.folder != folder
    assert after.recorded.lengths.tolist() == [4, 5, 6]
    assert after.recorded.successes.tolist() == [1, 0, -1]
    assert after.recorded.seeds.tolist() == [-1, 3, -1]
    assert read(tmp_path, successes=True).recorded.numbers.tolist() == [0, 2]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_cache_is_read_without_the_source_being_decoded_again(tmp_path, monkeypatch):
    write(tmp_path, [plain(4, np.random.default_rng(0))])
    read(tmp_path).prepare()
    monkeypatch.setattr(MinariDemonstrations, "convert", lambda *_: pytest.fail("converted twice"))
    assert len(read(tmp_path).recorded) == 1


def test_keys_and_environment_can_be_chosen(tmp_path):
    write(tmp_path, [nested(3, np.random.default_rng(0))], space=NESTED)
    episodes = read(tmp_path, keys=["arm/angles", "grip"], environment="My/Env-v0").recorded
    assert episodes.layout.keys == ("arm/angles", "grip")
    assert episodes.environment == "My/Env-v0"
    assert list(episodes.observations) == ["state"]


def test_writing_twice_or_wrongly_is_refused_and_leaves_all_as_it_was(tmp_path):
    rng = np.random.default_rng(0)
    folder = write(tmp_path, [plain(3, rng)])
    before = sorted((path.relative_to(folder), path.stat().st_mtime_ns) for path in folder.rglob("*"))
    with pytest.raises(UserError, match="already in"):
        write(tmp_path, [plain(3, rng)])
    with pytest.raises(UserError, match="observations to append are"):
        write(tmp_path, [nested(3, rng)], space=NESTED, append=True)
    with pytest.raises(UserError, match="no Minari id"):
        write(tmp_path, [plain(3, rng)], "no version")
    with pytest.raises(UserError, match="no episode to write"):
        write(tmp_path, [], "fork/none-v0")
    short = plain(3, rng)
    with pytest.raises(UserError, match="episode 1 has 2 rewards, and actions for 3 steps"):
        write(
            tmp_path,
            [short, RecordedEpisode(short.observations, short.actions, short.rewards[:2], *[np.zeros(2, bool)] * 2)],
            "fork/short-v0",
        )
    with pytest.raises(UserError, match="unknown to gymnasium"):
        write(tmp_path, [plain(3, rng)], "fork/other-v0", env_spec="No/Such-v0")
    assert sorted((path.relative_to(folder), path.stat().st_mtime_ns) for path in folder.rglob("*")) == before
    assert [path.name for path in (tmp_path / "fork").iterdir() if path.is_dir()] == ["expert-v0"]


def refused(root, **options):
    with pytest.raises(UserError) as caught:
        read(root, **options).prepare()
    assert "\n" not in str(caught.value)
    assert not list((root / "cache").rglob("manifest.json"))
    return str(caught.value)


def test_missing_set_names_the_nearest(tmp_path):
    write(tmp_path, [plain(3, np.random.default_rng(0))])
    assert "did you mean 'fork/expert-v0'" in refused(tmp_path, dataset_id="fork/export-v0")


@pytest.mark.parametrize("data_format", FORMATS)
def test_truncated_files_are_one_line(tmp_path, data_format):
    folder = write(tmp_path, [plain(40, np.random.default_rng(0)) for _ in range(2)], data_format=data_format)
    pattern = {"hdf5": "main_data.hdf5"}.get(data_format, f"1/*.{data_format}")
    (file,) = (folder / "data").glob(pattern)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    message = refused(tmp_path)
    assert "fork/expert-v0" in message
    assert str(tmp_path) in message


def test_broken_metadata_nan_and_discrete_actions_are_one_line(tmp_path):
    rng = np.random.default_rng(0)
    episode = plain(4, rng)
    episode.actions[2, 1] = np.nan
    folder = write(tmp_path, [plain(4, rng), episode])
    assert "episode 1 step 2 has a NaN" in refused(tmp_path)
    (folder / "data" / "metadata.json").write_text("{")
    assert "cannot be opened" in refused(tmp_path)
    shutil.rmtree(folder)
    discrete = RecordedEpisode(episode.observations, np.array([0, 1, 0, 1]), *[np.zeros(4)] * 3)
    write_minari(
        "fork/expert-v0",
        [discrete],
        observation_space=spaces.Box(-9, 9, (3,)),
        action_space=spaces.Discrete(2),
        root=str(tmp_path),
    )
    assert "a flow policy needs a Box" in refused(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"env_spec": "nothing"}, "data.init_args.environment"), ({"env_spec": "[1]"}, "no specification"),
     ({"total_episodes": "many"}, "total_episodes is 'many'")],
)  # fmt: skip
def test_metadata_that_makes_no_sense_is_one_line(tmp_path, change, words):
    rng = np.random.default_rng(0)
    path = write(tmp_path, [plain(3, rng), plain(4, rng)]) / "data" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert words in refused(tmp_path)
