"""RIVER in the latent space of a trained autoencoder: saved, moved, and without the codec's run."""

from __future__ import annotations

import shutil

import pytest
import torch
import yaml
from codec_toy import SIZES, few, train

import flowkit
from domains.video.codec.autoencoder import VQAutoencoder
from domains.video.codec.trained import TrainedCodec
from flowkit.cli.main import main
from flowkit.config.recipe import load_recipe
from flowkit.nn.codec import IdentityCodec, LatentCodec
from flowkit.random import RandomSource


def recipe(tmp_path, codec):
    """RIVER's smoke recipe with another codec."""
    from flowkit.config.recipe import find_recipe

    raw = yaml.safe_load(find_recipe("video/smoke/river-sprites").read_text())
    raw["task"]["init_args"]["codec"] = codec
    path = tmp_path / "river.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def trained(**options):
    return {"class_path": "TrainedCodec", "init_args": options}


def pictures(n=5):
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_river_run_holds_its_codec(codec_run, tmp_path):
    moved = tmp_path / "codec"
    shutil.copytree(codec_run, moved, symlinks=True)
    path = recipe(tmp_path, trained(run=str(moved), normalise=True))
    assert train(path, tmp_path / "river", *few(2)) == 0
    context = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    before = flowkit.load(tmp_path / "river")(context, frames=3, samples=2, seed=5)
    loaded = flowkit.from_pretrained(tmp_path / "river")
    saved = flowkit.save_pretrained(tmp_path / "saved", loaded.task, recipe=loaded.recipe)
    shutil.rmtree(moved)
    shutil.move(saved, tmp_path / "elsewhere")
    shutil.move(tmp_path / "river", tmp_path / "river-too")
    for folder in ("elsewhere", "river-too"):
        assert torch.equal(flowkit.load(tmp_path / folder)(context, frames=3, samples=2, seed=5), before)
    # The weights are those of the codec, not the random ones of its constructor.
    original = flowkit.from_pretrained(codec_run).task.network.state_dict()
    codec = flowkit.from_pretrained(tmp_path / "elsewhere").task.codec
    assert all(torch.equal(value, codec.network.state_dict()[name]) for name, value in original.items())
    assert train(tmp_path / "river-too", tmp_path / "river-too", "--resume", "last", *few(3)) == 0


def test_a_codec_that_was_fitted_by_adapters_is_taken_with_them(codec_run, tmp_path):
    pytest.importorskip("peft")
    fitted = tmp_path / "fitted"
    options = ["--rank", "2", "--out", str(fitted), "--device", "cpu", *few(2)]
    assert main(["finetune", str(codec_run), *options, "--trainer.lr", "0.05"]) == 0
    latents = []
    for place in (codec_run, fitted, fitted / "adapter"):
        codec = load_recipe(recipe(tmp_path, trained(run=str(place)))).build("task").task.codec
        codec.adapt(pictures)
        latents.append(codec.encode(pictures()))
    assert (latents[1] - latents[0]).abs().max() > 1e-3, "the adapter has learnt something"
    torch.testing.assert_close(latents[2], latents[1])


def test_the_resolved_recipe_stands_alone(codec_run, tmp_path):
    resolved = load_recipe(recipe(tmp_path, trained(run=str(codec_run)))).resolved
    codec = resolved["task"]["init_args"]["codec"]["init_args"]
    assert codec["network"]["init_args"]["channels"] == SIZES["channels"]
    codec["run"] = str(tmp_path / "gone")
    path = tmp_path / "alone.yaml"
    path.write_text(yaml.safe_dump(dict(resolved)))
    again = load_recipe(path)
    assert again.resolved == resolved
    assert again.build("task").task.latent == (4, 4, 4)


@torch.no_grad()
def test_latents_are_the_encoders_and_may_be_normalised(codec_run):
    network = flowkit.from_pretrained(codec_run).task.network
    x = pictures()
    plain = TrainedCodec.from_run(codec_run).freeze()
    z = plain.encode(x)
    assert torch.equal(z, network.encode(x))
    assert torch.equal(plain.decode(z), network.decode(z))
    scaled = TrainedCodec.from_run(codec_run, normalise=True).freeze()
    scaled.adapt(pictures)
    z = scaled.encode(x)
    assert z.mean((0, 2, 3)).abs().max() < 1e-5
    assert (z.std((0, 2, 3)) - 1).abs().max() < 1e-4
    assert torch.allclose(scaled.decode(z), plain.decode(plain.encode(x)), atol=1e-4)


@torch.no_grad()
def test_latents_are_as_exact_under_mixed_precision():
    torch.manual_seed(0)
    codec, x = TrainedCodec(VQAutoencoder(**SIZES)).freeze(), pictures()
    with torch.autocast("cpu", torch.bfloat16):
        z = codec.encode(x)
        frames = codec.decode(z)
    assert torch.equal(z, codec.encode(x))
    assert torch.equal(frames, codec.decode(z))


def test_mistakes_get_one_line(codec_run, tmp_path, capsys):
    river = tmp_path / "river"
    assert train(recipe(tmp_path, trained(run=str(tmp_path / "nowhere"))), river, *few(1)) == 2
    assert "task.codec: " in (said := capsys.readouterr().err)
    assert "nowhere" in said
    assert train("video/smoke/river-sprites", river, *few(1)) == 0
    capsys.readouterr()
    assert train(recipe(tmp_path, trained(run=str(river))), tmp_path / "other", *few(1)) == 2
    assert "holds no autoencoder of frames: its task is RiverTask" in capsys.readouterr().err
    network = {"class_path": "VQAutoencoder", "init_args": SIZES | {"codes": 32}}
    wrong = recipe(tmp_path, trained(run=str(codec_run), network=network))
    assert train(wrong, tmp_path / "other", *few(1)) == 2
    assert "has other sizes" in (said := capsys.readouterr().err)
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "other" / "checkpoints").exists()
    assert train(recipe(tmp_path, trained()), tmp_path / "other", *few(1)) == 2
    assert "name the run of a trained autoencoder in codec.init_args.run" in capsys.readouterr().err
    network = {"class_path": "VQAutoencoder", "init_args": SIZES | {"channels": [4] * 6}}
    assert train(recipe(tmp_path, trained(network=network)), tmp_path / "other", *few(1)) == 2
    assert "16 x 16 do not divide by the autoencoder's factor 32" in capsys.readouterr().err


class Drawing(LatentCodec):
    """A codec whose latents are random in training."""

    draws = True

    def shape(self, channels, height, width):
        return channels, height, width

    def encode(self, images, generator: RandomSource | None = None):
        from flowkit.random import normal_like

        return images if generator is None else images + normal_like(images, generator)

    def decode(self, latents):
        return latents


def test_drawn_latents_are_of_the_clip_whatever_the_batch():
    from domains.video.models.transformer import RiverTransformer
    from domains.video.river import RiverTask
    from flowkit.objectives.flow_matching import FlowMatching
    from flowkit.random import Rows

    def task(codec):
        return RiverTask(
            lambda spec: RiverTransformer(spec, width=8, heads=1, blocks=(0, 1, 0)), FlowMatching(), size=8, codec=codec
        )

    frames = torch.randint(0, 256, (4, 5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = task(Drawing())
    whole = made.prepare({"frames": frames}, Rows(0, total=4))
    part = made.prepare({"frames": frames[2:]}, Rows(0, first=2, total=4))
    assert torch.equal(whole.x1[2:], part.x1)
    assert torch.equal(whole.cond["past"][2:], part.cond["past"])
    plain = task(IdentityCodec()).prepare({"frames": frames}, Rows(0, total=4))
    assert not torch.equal(whole.x1, plain.x1)
    assert torch.equal(made.encode(frames), task(IdentityCodec()).encode(frames))
