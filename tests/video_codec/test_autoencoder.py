"""The autoencoder's shapes, sizes and what quantisation leaves as it is."""

from __future__ import annotations

import pytest
import torch

from domains.video.codec.autoencoder import VQAutoencoder
from domains.video.codec.critic import Critic
from domains.video.codec.distance import PixelsAlone, StructureDistance
from flowkit.errors import UserError


def small(**options):
    torch.manual_seed(0)
    return VQAutoencoder(**{"channels": [8, 8, 16], "depth": 1, "codes": 32, **options}).eval()


@pytest.mark.parametrize(("channels", "factor"), [([8], 1), ([8, 12], 2), ([8, 8, 8], 4), ([4, 4, 4, 4], 8)])
@pytest.mark.parametrize("colours", [1, 3])
def test_shapes(channels, factor, colours):
    network = small(channels=channels, colours=colours, latent=5)
    x = torch.rand(2, colours, 16, 24)
    z = network.encode(x)
    assert network.factor == factor
    assert tuple(z.shape[1:]) == network.shape(colours, 16, 24) == (5, 16 // factor, 24 // factor)
    assert network.decode(z).shape == x.shape


def test_the_default_is_the_published_latent():
    network = VQAutoencoder()
    assert network.shape(3, 64, 64) == (4, 8, 8)
    assert sum(p.numel() for p in network.parameters()) == 15_623_751
    light = VQAutoencoder(channels=[32, 64, 64, 96], depth=1)
    assert sum(p.numel() for p in light.parameters()) == 1_987_911


@torch.no_grad()
def test_decoding_quantises_first_and_quantising_twice_changes_nothing():
    network = small()
    z = network.encode(torch.rand(2, 3, 16, 16) * 2 - 1)
    q = network.quantise(z)
    assert not torch.equal(q, z)
    assert torch.equal(network.quantise(q), q)
    assert torch.equal(network.decode(q), network.decode(z))
    assert torch.equal(network.decode(z), network.decoder(q))


def test_attention_is_optional():
    assert len(small(attention=False).state_dict()) < len(small().state_dict())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: small(channels=[]), "channels"),
        (lambda: small(depth=0), "at least 1"),
        (lambda: small().shape(3, 18, 16), "18 x 16 do not divide by the autoencoder's factor 4"),
        (lambda: small().shape(1, 16, 16), "3 channels, not 1"),
    ],
)
def test_mistakes_get_one_line(build, message):
    with pytest.raises(UserError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_distances():
    true = torch.rand(3, 3, 16, 16) * 2 - 1
    worse = (true + 0.3 * torch.randn_like(true)).requires_grad_(True)
    assert PixelsAlone()(worse, true).tolist() == [0.0] * 3
    distance = StructureDistance()(worse, true)
    assert (distance > 0.01).all()
    assert StructureDistance()(true, true).abs().max() < 1e-6
    distance.sum().backward()
    assert worse.grad is not None
    assert worse.grad.isfinite().all()
    assert worse.grad.any()


def test_a_critic_learns_to_tell():
    torch.manual_seed(0)
    critic = Critic(3, 4)
    optimiser = torch.optim.Adam(critic.parameters(), lr=5e-3)
    true = torch.rand(4, 3, 16, 16) * 2 - 1
    made = torch.nn.functional.avg_pool2d(true, 3, 1, 1)
    first = float(critic.loss(made, true).mean().detach())
    for _ in range(15):
        optimiser.zero_grad()
        critic.loss(made, true).mean().backward()
        optimiser.step()
    assert 0.5 < first < 2.0
    assert critic.loss(made, true).mean() < 0.7 * first


def test_the_distance_of_edges_is_that_of_evaluations_with_gradients(monkeypatch):
    from domains.video.codec.distance import HedDistance
    from domains.video.evaluation import pips_hed

    torch.manual_seed(0)
    network = pips_hed.PipsHed().eval()
    for name, buffer in network.named_buffers():
        if name.startswith("kernel"):
            buffer.normal_(0.0, (2 / buffer[0].numel()) ** 0.5)
    monkeypatch.setattr(pips_hed, "load_pips_hed", lambda path, device: network)
    true = torch.rand(2, 3, 16, 16) * 2 - 1
    made = (true + 0.3 * torch.randn_like(true)).requires_grad_(True)
    distance = HedDistance()
    found = distance(made, true)
    assert torch.allclose(found, network(made, true), atol=1e-6)
    assert not distance.state_dict()
    found.sum().backward()
    assert made.grad.isfinite().all()
    assert made.grad.any()
    same = true.clone().requires_grad_(True)
    distance(same, true).sum().backward()
    assert same.grad.isfinite().all()
