"""Codecs of diffusers' autoencoders equal diffusers itself, with random weights of tiny networks."""

from __future__ import annotations

import pytest
import torch

from flowkit.errors import UserError
from flowkit.foreign.diffusers_codec import DiffusersCodec
from flowkit.random import Rows

diffusers = pytest.importorskip("diffusers", reason="an optional package")

BLOCKS = {
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
    "block_out_channels": [8, 16],
    "norm_num_groups": 4,
}
CONFIGS = {
    "kl": {"_class_name": "AutoencoderKL", **BLOCKS, "scaling_factor": 0.36, "shift_factor": 0.12},
    "per-channel": {
        "_class_name": "AutoencoderKL", **BLOCKS, "latent_channels": 2, "latents_mean": [0.5, -0.5],
        "latents_std": [2.0, 0.5], "scaling_factor": 0.5,
    },
    "vq": {"_class_name": "VQModel", **BLOCKS, "latent_channels": 3, "vq_embed_dim": 2, "num_vq_embeddings": 16},
}  # fmt: skip


@pytest.fixture(params=CONFIGS)
def saved(request, tmp_path):
    """A folder that diffusers wrote, and the network in it."""
    torch.manual_seed(0)
    config = CONFIGS[request.param]
    network = getattr(diffusers, config["_class_name"]).from_config(config).eval()
    if request.param == "vq":
        network.quantize.embedding.weight.data.normal_()  # the first weights are too small to tell codes apart
    network.save_pretrained(tmp_path / "vae")
    return request.param, tmp_path / "vae", network


def pictures(n=3, size=16):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def from_folder(folder, **options):
    codec = DiffusersCodec(**DiffusersCodec.write_out({"folder": str(folder), **options}))
    codec.adapt(pictures)
    return codec.freeze()


@torch.no_grad()
def test_it_encodes_and_decodes_as_diffusers_does(saved):
    kind, folder, network = saved
    codec, x = from_folder(folder), pictures()
    z = codec.encode(x)
    assert tuple(z.shape[1:]) == codec.shape(3, 16, 16)
    if kind == "kl":
        expected = (network.encode(x).latent_dist.mean - 0.12) * 0.36
        raw = z / 0.36 + 0.12
    elif kind == "per-channel":
        mean, std = torch.tensor([0.5, -0.5]).reshape(1, 2, 1, 1), torch.tensor([2.0, 0.5]).reshape(1, 2, 1, 1)
        expected = (network.encode(x).latent_dist.mean - mean) * (0.5 / std)
        raw = z / (0.5 / std) + mean
    else:
        factor = network.config.scaling_factor
        expected, raw = network.encode(x).latents * factor, z / factor
    assert torch.equal(z, expected)
    assert torch.equal(codec.decode(z), network.decode(raw).sample)


@torch.no_grad()
def test_unscaled_latents_are_the_encoders(saved):
    kind, folder, network = saved
    codec, x = from_folder(folder, scale=False), pictures()
    found = network.encode(x)
    assert torch.equal(codec.encode(x), found.latents if kind == "vq" else found.latent_dist.mean)


@torch.no_grad()
def test_training_may_draw_from_the_posterior_and_prediction_never_does():
    torch.manual_seed(0)
    codec = DiffusersCodec(CONFIGS["kl"], sample=True, scale=False).freeze()
    x = pictures(n=1, size=8)
    law = codec.network.encode(x).latent_dist
    assert torch.equal(codec.encode(x), law.mean)
    many = x.repeat(2000, 1, 1, 1)
    draws = codec.encode(many, Rows(0, total=2000))
    assert ((draws.mean(0) - law.mean) / law.std).abs().max() < 5 / 2000**0.5
    assert (draws.std(0) / law.std - 1).abs().max() < 0.1
    part = codec.encode(many[:5], Rows(0, first=100, total=2000))
    assert torch.allclose(part, draws[100:105], atol=1e-5)


def test_mistakes_get_one_line(tmp_path):
    (tmp_path / "pipeline" / "vae").mkdir(parents=True)
    (tmp_path / "pipeline" / "vae" / "config.json").write_text("{}")
    for folder, message in (("nowhere", "no such folder"), ("pipeline", "the autoencoder is in")):
        with pytest.raises(UserError, match=message):
            DiffusersCodec.write_out({"folder": str(tmp_path / folder)})
    for config, options, message in (
        ({}, {}, "_class_name"),
        ({"_class_name": "UNet2DModel"}, {}, "known: AutoencoderKL, VQModel"),
        (CONFIGS["vq"], {"sample": True}, "no posterior"),
    ):
        with pytest.raises(UserError, match=message):
            DiffusersCodec(config, **options)
    codec = DiffusersCodec(CONFIGS["kl"], folder=str(tmp_path / "pipeline" / "vae"))
    with pytest.raises(UserError, match="cannot be used") as caught:
        codec.adapt(pictures)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="factor 2"):
        codec.shape(3, 15, 16)
    with pytest.raises(UserError, match="reads 3 channels"):
        codec.shape(1, 16, 16)
