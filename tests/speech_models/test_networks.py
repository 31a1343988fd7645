"""The published sizes, blindness to padding, and networks built to order."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from domains.speech.models.decoder import MatchaDecoder
from domains.speech.models.text_encoder import EncoderSizes, TextEncoder
from flowkit.cond import Cond
from flowkit.nn.network import Head, NetworkSpec


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def decoder() -> MatchaDecoder:
    torch.manual_seed(0)
    return MatchaDecoder(NetworkSpec()).eval()


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(178, 80).eval()


def test_published_parameter_counts(decoder: MatchaDecoder, encoder: TextEncoder) -> None:
    assert count(encoder.durations) == 345_857
    assert count(encoder) == 7_195_345
    assert count(decoder) == 11_008_848
    assert count(encoder) + count(decoder) == 18_204_193


def test_decoder_needs_no_more_arithmetic_than_the_published_one(decoder: MatchaDecoder) -> None:
    x = randn(1, 80, 432)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        decoder([x], [torch.tensor([0.5])], Cond({"mu": x}))
    assert counter.get_total_flops() <= 4.75e9 * 1.05


def test_small_size() -> None:
    sizes = EncoderSizes(width=128, filter_width=384, layers=4, prenet_layers=2, duration_width=128)
    small = count(TextEncoder(178, 80, sizes)) + count(MatchaDecoder(NetworkSpec(), channels=[112, 112], head_width=32))
    assert 4 * small + 65536 < 16 * 2**20  # as float32 with room for the rest


@pytest.mark.parametrize("frames", [1, 2, 61, 64])
def test_decoder_is_blind_to_padding(decoder: MatchaDecoder, frames: int) -> None:
    x, mu, t = randn(1, 80, frames), randn(1, 80, frames, seed=1), torch.tensor([0.3])
    alone = decoder([x], [t], Cond({"mu": mu}))["v"]
    wide_x, wide_mu = randn(3, 80, 83, seed=2), randn(3, 80, 83, seed=3)
    wide_x[0, :, frames:], wide_mu[0, :, frames:] = torch.nan, 1e4
    wide_x[0, :, :frames], wide_mu[0, :, :frames] = x[0], mu[0]
    lengths = torch.tensor([frames, 83, 40])
    padding = (torch.arange(83) < lengths[:, None])[:, None]
    together = decoder([wide_x], [torch.tensor([0.3, 0.9, 0.1])], Cond({"mu": wide_mu}, padding=padding))["v"]
    assert together.isfinite().all()
    assert (together[0, :, :frames] - alone[0]).abs().max() < 1e-4
    assert (together[0, :, frames:] == 0).all()
    assert alone.std() > 0.1


def test_decoder_gradient_is_finite_beside_nan_padding() -> None:
    network = MatchaDecoder(NetworkSpec(), features=8, channels=[16, 16], head_width=8, groups=4)
    x = randn(2, 8, 11)
    x[0, :, 5:] = torch.nan
    padding = (torch.arange(11) < torch.tensor([5, 11])[:, None])[:, None]
    network([x], [torch.rand(2)], Cond({"mu": randn(2, 8, 11)}, padding=padding))["v"].square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("tokens", [1, 12, 31])
def test_encoder_is_blind_to_padding(encoder: TextEncoder, tokens: int) -> None:
    wide = torch.randint(1, 178, (3, 40), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([tokens, 40, 20])
    alone = encoder(wide[:1, :tokens], lengths[:1])
    together = encoder(wide, lengths)
    assert (together.mu[0, :tokens] - alone.mu[0]).abs().max() < 1e-4
    assert (together.log_durations[0, :tokens] - alone.log_durations[0]).abs().max() < 1e-4
    assert (together.mu[0, tokens:] == 0).all()
    assert together.real.sum(1).tolist() == lengths.tolist()


def test_durations_do_not_pull_at_the_encoder() -> None:
    encoder = TextEncoder(20, 8, EncoderSizes(width=16, filter_width=32, layers=1, duration_width=16))
    encoder(torch.randint(1, 20, (2, 6)), torch.tensor([6, 4])).log_durations.sum().backward()
    pulled = {name.split(".")[0] for name, p in encoder.named_parameters() if p.grad is not None}
    assert pulled == {"durations"}


def test_encoder_needs_its_speaker() -> None:
    encoder = TextEncoder(20, 8, EncoderSizes(width=16, filter_width=32, layers=1), condition=8)
    tokens, lengths = torch.randint(1, 20, (2, 6)), torch.tensor([6, 4])
    one, other = (encoder.eval()(tokens, lengths, randn(2, 8, seed=s)).mu for s in (0, 1))
    assert (one - other).abs().max() > 1e-3
    with pytest.raises(ValueError, match="speakers or languages"):
        encoder(tokens, lengths)
    with pytest.raises(ValueError, match="divisible"):
        TextEncoder(20, 8, EncoderSizes(width=30))


@pytest.mark.parametrize("channels", [[16], [16, 24], [8, 16, 24]])
def test_networks_to_order(channels: list[int]) -> None:
    spec = NetworkSpec(inputs=2, times=2, heads=(Head("v"), Head("a"), Head("log_sigma", "scalar", detach=True)))
    network = MatchaDecoder(spec, features=8, channels=channels, head_width=8, groups=4, condition=3)
    x, cond = randn(2, 8, 13), Cond({"mu": randn(2, 8, 13, seed=1), "speaker": randn(2, 3, seed=2)})
    times = torch.tensor([0.1, 0.2]), torch.tensor([0.6, 0.7])
    heads = network([x, x], times, cond)
    assert {name: tuple(h.shape) for name, h in heads.items()} == {"v": (2, 8, 13), "a": (2, 8, 13), "log_sigma": (2,)}
    heads["log_sigma"].sum().backward()
    pulled = {name for name, p in network.named_parameters() if p.grad is not None}
    assert pulled == {"body.heads.log_sigma.weight", "body.heads.log_sigma.bias"}
    swapped = network([x, x], times[::-1], cond)["v"]
    assert (swapped - heads["v"]).abs().max() > 1e-4  # the two times mean different things
    no_time = MatchaDecoder(NetworkSpec(times=0), features=8, channels=channels, head_width=8, groups=4)
    assert no_time([x], [], cond)["v"].shape == x.shape


def test_decoder_names_a_wrong_size() -> None:
    with pytest.raises(ValueError, match="multiples of groups"):
        MatchaDecoder(NetworkSpec(), channels=[100, 90])
    with pytest.raises(KeyError, match="no condition 'mu'"):
        MatchaDecoder(NetworkSpec(), features=8, channels=[8])([randn(1, 8, 4)], [torch.rand(1)], Cond())
