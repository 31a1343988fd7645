"""The predictor in Python, training on a tiny set, save and load, evaluation and what is shown."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from tiny_video import TinySource, tiny_task, write_video

from domains.video.judge import judge, predict
from domains.video.pipeline import VideoPredictor
from domains.video.present import BORDER, GAP, KNOWN, LEAST_SIDE, PREDICTED, side_by_side
from domains.video.reading import read_square
from flowkit.errors import UserError
from flowkit.nn.codec import IdentityCodec
from flowkit.random import Rows
from flowkit.solvers.sampler import Sampler


@pytest.fixture(scope="module")
def trained():
    task = tiny_task(codec=IdentityCodec(patch=2)).train()
    source = TinySource(clips=4)
    raw = source.split("train").batch(range(4))
    big = {"frames": raw["frames"].repeat(4, 1, 1, 1, 1)}
    optimiser = torch.optim.Adam(task.parameters(), lr=2e-3)
    losses = []
    for step in range(250):
        loss = task(big, step=step, generator=Rows(step, total=16)).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return task.eval(), raw["frames"], losses


def test_it_learns_a_tiny_set_by_heart(trained):
    task, clips, losses = trained
    assert np.mean(losses[-20:]) < 0.2 * np.mean(losses[:5])
    # Two known frames fix the motion: prediction has to beat copying by far.
    found = judge(task, _Fixed(clips), sampler=Sampler(steps=10), seed=0)
    assert found["psnr_first"] > found["psnr_copy_first"] + 5
    assert found["psnr"] > found["psnr_copy"] + 4
    assert found["nfe"] == 10
    assert found["failed"] == 0
    assert found["ssim"] > found["ssim_copy"]


class _Fixed:
    def __init__(self, clips):
        self.clips = clips

    def __len__(self):
        return len(self.clips)

    def batch(self, indices):
        return {"frames": self.clips[list(indices)]}


def test_the_best_of_several_is_no_worse(trained):
    task, clips, _ = trained
    task.evaluate_samples = 4
    try:
        found = judge(task, _Fixed(clips), sampler=Sampler(steps=2), seed=0)
    finally:
        task.evaluate_samples = 1
    assert found["psnr_best"] >= found["psnr"]
    assert found["ssim_best"] >= found["ssim"]
    assert "psnr_codec" not in found  # the ceiling of a lossless codec is infinite


def test_samples_do_not_depend_on_each_other_or_on_batches(trained):
    task, clips, _ = trained
    predictor = VideoPredictor(task, Sampler(steps=3))
    three = predictor(clips[0, :2], frames=4, samples=3, seed=5)
    one = predictor(clips[0, :2], frames=4, samples=1, seed=5)
    assert three.shape == (3, 4, 3, 8, 8)
    assert three.dtype == torch.uint8
    assert (three[:1].int() - one.int()).abs().max() <= 1
    assert not torch.equal(three[0], three[1])
    assert torch.equal(three, predictor(clips[0, :2], frames=4, samples=3, seed=5))
    assert not torch.equal(three, predictor(clips[0, :2], frames=4, samples=3, seed=6))
    whole = predict(task, clips[:, :2], 2, sampler=Sampler(steps=2), seed=3).frames
    parts = [predict(task, clips[i : i + 2, :2], 2, sampler=Sampler(steps=2), seed=3, first=i).frames for i in (0, 2)]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-4)


def test_frames_are_streamed_and_the_stream_has_no_end(trained):
    task, clips, _ = trained
    stream = VideoPredictor(task, Sampler(steps=2)).stream(clips[0, :1], samples=2)
    made = list(islice(stream, 40))
    assert len(made) == 40
    assert all(f.nfe == 2 and f.network_calls == 2 and f.seconds > 0 for f in made)
    assert made[0].pixels.shape == (2, 3, 8, 8)


def test_dials_of_the_predictor_replace_the_tasks(trained):
    task, clips, _ = trained
    base = VideoPredictor(task, Sampler(steps=4))(clips[0, :4], frames=2)
    warm = VideoPredictor(task, Sampler(steps=4), strength=0.6)(clips[0, :4], frames=2)
    assert not torch.equal(base, warm)
    assert VideoPredictor(task, redraw="once", horizon=3).dials.horizon == 3
    with pytest.raises(UserError, match="strength"):
        VideoPredictor(task, strength=1.5)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (np.zeros((2, 3, 8, 8), np.float32), "uint8"),
        (np.zeros((2, 3, 9, 8), np.uint8), "not of shape"),
        (np.zeros((0, 3, 8, 8), np.uint8), "at least one"),
        (np.zeros((3, 8, 8), np.uint8), "uint8"),
    ],
)
def test_frames_of_another_kind_are_refused(context, message):
    with pytest.raises(UserError, match=message):
        VideoPredictor(tiny_task())(context, frames=1)


def test_numbers_that_cannot_be_are_refused():
    predictor, context = VideoPredictor(tiny_task()), np.zeros((2, 3, 8, 8), np.uint8)
    with pytest.raises(UserError, match="samples"):
        predictor(context, frames=1, samples=0)
    with pytest.raises(UserError, match="frames"):
        predictor(context, frames=0)
    with pytest.raises(UserError, match="numbers of action"):
        predictor(context, frames=2, actions=np.zeros((2, 1)))


def test_actions_bound_the_frames():
    predictor = VideoPredictor(tiny_task(actions=2), Sampler(steps=1))
    context = np.zeros((2, 3, 8, 8), np.uint8)
    assert predictor(context, frames=3, samples=2, actions=np.zeros((3, 2))).shape == (2, 3, 3, 8, 8)
    with pytest.raises(UserError, match="4 frames need 4 actions"):
        predictor(context, frames=4, actions=np.zeros((3, 2)))


def test_a_broken_model_says_so():
    task = tiny_task()
    with torch.no_grad():
        task.networks.main.enter.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="not finite"):
        VideoPredictor(task)(np.zeros((2, 3, 8, 8), np.uint8), frames=1)


def test_clips_side_by_side_mark_what_was_known():
    panels = [np.full((3, 3, 8, 8), value, np.uint8) for value in (10, 200)]
    clip = side_by_side([panels], context=1, fps=10, truth=True)
    factor = -(-LEAST_SIDE // 8)
    side = 8 * factor + 2 * BORDER
    assert clip.frames.shape == (3, side, 2 * side + GAP, 3)
    corner = clip.frames[:, 0, [0, side + GAP]]
    assert corner[0].tolist() == [list(KNOWN)] * 2
    assert corner[1].tolist() == [list(KNOWN), list(PREDICTED)]
    assert (clip.frames[:, BORDER : BORDER + 8 * factor, BORDER : BORDER + 8 * factor] == 10).all()


def test_reading_cuts_the_middle_square(tmp_path):
    pictures = write_video(tmp_path / "a.mp4", frames=8, height=48, width=96)
    frames, fps = read_square(tmp_path / "a.mp4", size=48, start=2, count=3, stride=2)
    assert frames.shape == (3, 3, 48, 48)
    assert fps == 5
    expected = pictures[[2, 4, 6], :, 24:72].transpose(0, 3, 1, 2).mean((1, 2, 3))
    assert np.abs(frames.mean((1, 2, 3)) - expected).max() < 3
    tall, _ = read_square(tmp_path / "a.mp4", size=16, start=0, count=100)
    assert tall.shape == (8, 3, 16, 16)


def test_present_and_sample_show_clips(trained, tmp_path):
    task, _, _ = trained
    samples = TinySource().split("test")
    shown = task.present(samples, sampler=Sampler(steps=1))["clips"]
    assert shown.frames.shape[0] == 6
    assert shown.save(tmp_path / "shown").suffix == ".mp4"
    made = task.sample(2, sampler=Sampler(steps=1), request={"frames": 7})["clips"]
    assert made.frames.shape[0] == 2 + 7
    with pytest.raises(UserError, match="colour"):
        task.sample(1, sampler=Sampler(steps=1), request={"colour": 1})


@pytest.mark.parametrize(
    ("options", "actions", "message"),
    [
        ({"frames": 2}, 0, "clips of 2 frames are too short: set data.init_args.frames to 3"),
        ({"size": 12}, 0, "8 x 8 pixels, the data's 3 of 12 x 12: set data.init_args.size to 8"),
        ({"actions": 1}, 2, "reads 2 numbers of action a frame, the data has 1"),
        ({}, 2, "reads 2 numbers of action a frame, the data has 0"),
    ],
)
def test_other_data_that_do_not_fit_a_trained_model_get_one_line(options, actions, message):
    task = tiny_task(actions=actions)
    clips = TinySource(**options).split("test")
    with pytest.raises(UserError, match=message):
        task.evaluate(clips, sampler=Sampler(steps=1))
    with pytest.raises(UserError, match=message):
        task.report(clips, sampler=Sampler(steps=1))
    with pytest.raises(UserError, match=message):
        task.codes(clips.batch([0]))


def test_without_validation_clips_the_example_is_a_training_clip():
    class OnlyTraining(TinySource):
        def split(self, name):
            clips = super().split(name)
            clips.count = clips.count if name == "train" else 0
            return clips

    task, data = tiny_task(), OnlyTraining()
    task.example.zero_()
    task.refit(data)
    assert torch.equal(task.example, data.split("train").batch([0])["frames"][0, :2])
