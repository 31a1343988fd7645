"""Films: what is written can be read back, shows the right frames, and costs nothing where nobody looks."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
from PIL import Image
from rollout_worlds import FORK, WALK, Walk, fresh_policy
from torch.utils.tensorboard import SummaryWriter

from domains.policy import film as filming
from domains.policy.actors import ExpertActor, RandomActor
from domains.policy.film import contact_sheet, film, grid, grid_columns, in_sequence, tiled, worth_seeing
from domains.policy.present import Clip
from domains.policy.records import EpisodeRecord
from domains.policy.rollout import rollout
from flowkit.errors import UserError


def moving_square(frames: int = 12, height: int = 61, width: int = 83) -> np.ndarray:
    pixels = np.full((frames, height, width, 3), 230, np.uint8)
    for i in range(frames):
        pixels[i, 20:40, 5 * i : 5 * i + 20] = (20, 60, 200)
    return pixels


def test_an_mp4_has_the_frames_the_pace_and_the_colours(tmp_path):
    pixels = moving_square()
    path = Clip(pixels, fps=12.5).save(tmp_path / "deep" / "clip-0.5")
    assert path == tmp_path / "deep" / "clip-0.5.mp4"
    assert [p.name for p in path.parent.iterdir()] == ["clip-0.5.mp4"]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate or 0) == 12.5
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(decoded) == 12
    # Odd sides grow by one row and column.
    assert decoded[0].shape == (62, 84, 3)
    error = np.abs(np.stack(decoded)[:, :61, :83].astype(int) - pixels)
    assert error.mean() < 3


def test_saving_under_a_full_name_does_not_double_the_suffix(tmp_path):
    assert Clip(moving_square(2), 5).save(tmp_path / "a.mp4") == tmp_path / "a.mp4"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        Clip(moving_square(2), 5).save(tmp_path / "file" / "a.mp4")


@pytest.mark.parametrize(
    "frames", [np.zeros((2, 4, 4, 3)), np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4, 4, 3), np.uint8)]
)
def test_what_is_no_clip(frames):
    with pytest.raises(ValueError, match="a clip is uint8"):
        Clip(frames, 10)
    with pytest.raises(ValueError, match="positive"):
        Clip(moving_square(1), 0)


def test_tensorboard_gets_an_animation(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = SummaryWriter(str(tmp_path))
    frames = np.random.default_rng(0).integers(0, 255, (300, 30, 1400, 3)).astype(np.uint8)
    Clip(frames, 30).to_tensorboard(writer, "samples/film", 7)
    writer.close()
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0})
    events.Reload()
    (event,) = events.Images("samples/film")
    image = Image.open(io.BytesIO(event.encoded_image_string))
    assert event.step == 7
    assert (image.format, image.size) == ("GIF", (event.width, event.height)) == ("GIF", (467, 10))
    # 300 frames at 30 a second, every third one shown: ten seconds all the same.
    assert getattr(image, "n_frames", 1) == 100
    assert image.info["duration"] == 100


def test_a_film_shows_each_step_once_and_ends_in_the_colour_of_its_verdict():
    (won,) = film(ExpertActor(FORK), FORK, [100_000])
    lost = next(f for f in film(RandomActor(), FORK, range(100_001, 100_005)) if not f.record.success)
    for one, colour in ((won, filming._GOOD), (lost, filming._BAD)):
        assert [shot.step for shot in one.shots] == list(range(one.record.length + 1))
        last = len(one.shots) - 1
        assert tuple(one.frame(last)[0, 0]) == colour
        assert tuple(one.frame(last - 1)[0, 0]) == filming._PAPER
        assert np.array_equal(one.frame(last + 9), one.frame(last))
        assert not np.array_equal(one.frame(0), one.frame(1))
    clip = tiled([won, lost])
    height, width = won.frame(0).shape[:2]
    assert clip.frames.shape == (27 + 10, height + 16, 2 * width + 24, 3)
    assert clip.fps == 10
    assert len(in_sequence([won, lost]).frames) == 27 + 10 + len(lost.shots) + 10
    assert contact_sheet([won, lost], columns=4).pixels.shape == (2 * height + 24, 4 * width + 40, 3)


def test_a_film_is_of_the_episode_that_was_measured():
    policy = fresh_policy()
    measured = rollout(policy, WALK, episodes=6, envs=6, seed=2)
    for one, record in zip(film(policy, WALK, [r.start for r in measured], seed=2), measured, strict=True):
        assert (one.record.length, one.record.success) == (record.length, record.success)
        assert one.fps == 20
        assert [shot.nfe for shot in one.shots[1:]] == [3] * record.length


def test_long_episodes_are_thinned_and_keep_their_end(monkeypatch):
    monkeypatch.setattr(filming, "MOST_FRAMES", 10)
    (one,) = film(ExpertActor(FORK), FORK, [100_000])
    assert [shot.step for shot in one.shots] == [0, 4, 8, 12, 16, 20, 24, 26]


def test_nothing_is_drawn_while_a_rollout_is_measured():
    before = Walk.drawn
    records = rollout(RandomActor(), WALK, episodes=3)
    assert Walk.drawn == before
    film(RandomActor(), WALK, [records[0].start])
    assert Walk.drawn == before + records[0].length + 1


def test_an_environment_without_pictures(monkeypatch):
    monkeypatch.setattr(Walk, "render", lambda self: "..#")
    with pytest.raises(UserError, match=r"draws no pictures \(its render\(\) gives str\): go without --video"):
        film(RandomActor(), WALK, [0])


def test_first_episodes_and_some_failures_are_worth_seeing():
    wins = [True, True, False, True, True, False, True, False, False, False, False]
    records = [EpisodeRecord(i, won, 0.0, 0.0, 1, failed="gone" if i == 5 else "") for i, won in enumerate(wins)]
    assert worth_seeing(records) == [0, 1, 2, 3, 7, 8, 9, 10]
    assert worth_seeing(records, first=1, failures=2) == [0, 2, 7]


def test_grid():
    tiles = [np.full((4, 6, 3), i, np.uint8) for i in range(5)]
    found = grid(tiles, 3, gap=1)
    assert found.shape == (11, 22, 3)
    assert (found[1, 1, 0], found[1, 8, 0], found[6, 8, 0], found[6, 15, 0]) == (0, 1, 4, 255)
    assert [grid_columns(n) for n in (1, 2, 3, 4, 5, 8, 9)] == [1, 2, 3, 2, 3, 3, 3]
