"""The training of the autoencoder, and what users get of it."""

from __future__ import annotations

import pytest
import torch
from codec_toy import RECIPE, few, source, task, train

import flowkit
from domains.video.codec.distance import FrameDistance, StructureDistance
from domains.video.codec.pipeline import FrameCodec
from domains.video.data.spread import spread_frames
from flowkit.cli.main import main
from flowkit.errors import UserError
from flowkit.random import Rows
from flowkit.solvers.sampler import Sampler


def raw(n=4):
    return source().split("train").batch(range(n))


def test_training_lowers_the_error_and_uses_the_codebook(codec_run):
    held_out = source().split("validation")
    trained = flowkit.from_pretrained(codec_run).task.evaluate(held_out, sampler=Sampler())
    untrained = task().eval().evaluate(held_out, sampler=Sampler())
    assert trained["psnr"] > untrained["psnr"] + 6
    assert trained["ssim"] > untrained["ssim"]
    assert trained["codes_used"] > 0.5
    assert 1 <= trained["perplexity"] <= 64


def test_a_user_encodes_and_decodes(codec_run, tmp_path, monkeypatch):
    codec = flowkit.load(codec_run)
    assert isinstance(codec, FrameCodec)
    frames = raw()["frames"][:, 0]
    latents, codes = codec.encode(frames), codec.codes(frames.numpy())
    assert latents.shape == (4, 4, 4, 4)
    assert codes.shape == (4, 4, 4)
    # The codes are all there is of a frame.
    assert torch.equal(codec.decode_codes(codes), codec.decode(latents))
    assert torch.equal(codec(frames), codec.decode(latents))
    assert codec.encode(torch.zeros(1, 3, 32, 24, dtype=torch.uint8)).shape == (1, 4, 8, 6)
    for wrong, message in (
        (torch.zeros(1, 3, 16, 16), "uint8"),
        (torch.zeros(1, 3, 18, 16, dtype=torch.uint8), "18 x 16 do not divide"),
        (torch.zeros(1, 1, 16, 16, dtype=torch.uint8), "3 channels, not 1"),
    ):
        with pytest.raises(UserError, match=message):
            codec.encode(wrong)
    with pytest.raises(UserError, match="0 to 63, not 64 to 64"):
        codec.decode_codes(torch.full((1, 2, 2), 64))
    saved = flowkit.from_pretrained(codec_run)
    folder = flowkit.save_pretrained(tmp_path / "model", saved.task, recipe=saved.recipe)
    assert torch.equal(flowkit.load(folder).encode(frames), latents)


def test_training_goes_on_bit_for_bit(tmp_path):
    # A codebook of averages and counts of idle steps must survive the break.
    assert train(RECIPE, tmp_path / "whole", *few(8)) == 0
    assert train(RECIPE, tmp_path / "broken", *few(4)) == 0
    assert train(tmp_path / "broken", tmp_path / "broken", "--resume", "last", *few(8)) == 0
    one, other = (flowkit.from_pretrained(tmp_path / name).task.state_dict() for name in ("whole", "broken"))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_the_loss_is_made_of_its_terms():
    class Distance(FrameDistance):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, made, true):
            return self.weight * (made.mean((1, 2, 3)) - true.mean((1, 2, 3))).abs()

    options = {"commitment": 0.7, "perceptual": Distance(), "perceptual_weight": 3.0, "pixel": "l2"}
    made = task({"update": "gradient"}, **options)
    loss = made(raw(), generator=Rows(0, total=4))
    terms = loss.terms
    assert {name: tuple(value.shape) for name, value in terms.items()} == dict.fromkeys(
        ("pixel", "commitment", "codebook", "perceptual", "perplexity"), (4,)
    )
    total = terms["pixel"] + 0.7 * terms["commitment"] + terms["codebook"] + 3.0 * terms["perceptual"]
    assert torch.allclose(loss.total, total.mean())
    loss.total.backward()
    assert [name for name, p in made.named_parameters() if p.grad is None] == []
    assert not any("perceptual" in name for name in made.state_dict())
    assert options["perceptual"].weight.grad is None


def test_frames_are_drawn_from_all_of_the_clip():
    made = task(frames_per_clip=3)
    frames = torch.arange(4, dtype=torch.uint8).reshape(1, 4, 1, 1, 1).expand(200, -1, 3, 16, 16)
    x1 = made.prepare({"frames": frames}, Rows(0, total=200)).x1
    assert x1.shape == (200, 3, 3, 16, 16)
    times = ((x1[:, :, 0, 0, 0] + 1) * 127.5).round()
    assert torch.equal(times.unique(), torch.arange(4.0))
    assert all(len(set(row)) == 3 for row in times.tolist())
    half = made.prepare({"frames": frames[100:]}, Rows(0, first=100, total=200)).x1
    assert torch.equal(half, x1[100:])


def test_a_critic_takes_turns(tmp_path):
    made = task(critic_weight=0.1, critic_start=1, critic_channels=4)
    assert [(p.name, p.first_step) for p in made.phases()] == [("codec", 0), ("critic", 1)]
    made.train()
    early, late = (made(raw(), phase="codec", step=step, generator=Rows(0, total=4)) for step in (0, 1))
    assert "opinion" not in early.terms
    assert torch.allclose(late.total, early.total - 0.1 * late.terms["opinion"].mean())
    made.after_step(0)
    book = made.network.quantiser.codebook.clone()
    made(raw(), phase="critic", step=1, generator=Rows(0, total=4)).total.backward()
    made.after_step(1)
    assert torch.equal(book, made.network.quantiser.codebook)
    assert all((p.grad is not None) == name.startswith("critic.") for name, p in made.named_parameters())
    # One more line of a recipe trains it.
    options = ["--task.critic_weight", "0.1", "--task.critic_start", "1", "--task.critic_channels", "4"]
    assert train(RECIPE, tmp_path / "run", *options, *few(3)) == 0
    after = flowkit.from_pretrained(tmp_path / "run").task
    assert after.critic is not None


@pytest.mark.parametrize("options", [["--task.network.update", "gradient"], ["--task.perceptual", "StructureDistance"]])
def test_recipes_choose_codebook_and_distance(tmp_path, options):
    assert train(RECIPE, tmp_path / "run", *options, *few(2)) == 0
    assert flowkit.load(tmp_path / "run") is not None


def test_looking_at_it(codec_run, tmp_path):
    made = flowkit.from_pretrained(codec_run).task
    picture = made.present(source().split("validation"), sampler=Sampler())["frames"]
    # 8 frames of 96 pixels a row, two rows.
    assert picture.pixels.shape == (2 * 96 + 4, 8 * 96 + 7 * 4, 3)
    assert main(["sample", str(codec_run), "-n", "3", "--out", str(tmp_path), "--device", "cpu"]) == 0
    assert (tmp_path / "frames.png").stat().st_size > 0
    assert main(["evaluate", str(codec_run), "--limit", "2", "--device", "cpu"]) == 0
    with pytest.raises(UserError, match="makes nothing new"):
        made.sample(1, sampler=Sampler(), request={"text": "a cat"})


def test_frames_are_spread_over_clips_and_times():
    samples = source(frames=5, validation=3).split("validation")
    assert spread_frames(samples, 2).shape == (2, 3, 16, 16)
    clips = samples.batch(range(3))["frames"]
    assert torch.equal(spread_frames(samples, 3), clips[:, 2])
    assert torch.equal(spread_frames(samples, 6), clips[:, [1, 3]].flatten(0, 1))
    assert len(spread_frames(samples, 100)) == 15
    assert len(spread_frames(samples, 100, clips=1)) == 5
    assert len(spread_frames(source(validation=0).split("validation"), 5)) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 18}, "18 x 18 do not divide by the autoencoder's factor 4"),
        ({"commitment": -1.0}, "commitment"),
        ({"frames_per_clip": 0}, "frames_per_clip"),
        ({"size": 32}, "size is 32, the data has 16"),
        ({"network": {"colours": 1}}, "colours is 1, the data has 3"),
    ],
)
def test_mistakes_get_one_line(options, message):
    with pytest.raises(UserError, match=message) as caught:
        task(**options)
    assert "\n" not in str(caught.value)


def test_a_flow_is_refused_in_one_line(codec_run):
    made = flowkit.from_pretrained(codec_run).task
    with pytest.raises(UserError, match="no velocity field"):
        made.objective.field(made.networks)
    with pytest.raises(UserError, match="OwnLoss"):
        made.objective.needs()
    assert isinstance(StructureDistance(), FrameDistance)


def test_frames_that_do_not_fit_get_one_line():
    with pytest.raises(UserError, match="18 x 18 do not divide by the autoencoder's factor 4"):
        task().evaluate(source(size=18).split("test"), sampler=Sampler())
