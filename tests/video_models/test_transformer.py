"""The transformer: its size derived from the card, every input read, heads to the objective's order."""

from __future__ import annotations

import pytest
import torch

from domains.video.models.specs import FrameSpec
from domains.video.models.transformer import RiverTransformer
from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.nn.network import Head, NetworkSpec


def cond(b=2, c=4, side=4, seed=0, **extra):
    generator = torch.Generator().manual_seed(seed)
    reference, past = torch.randn(2, b, c, side, side, generator=generator)
    return Cond({"reference": reference, "past": past, "distance": torch.arange(1, b + 1), **extra})


def build(spec=NetworkSpec(), shape=(4, 4, 4), actions=0, **sizes):  # noqa: B008
    torch.manual_seed(0)
    sizes = {"width": 32, "heads": 4, "blocks": (1, 1, 1), **sizes}
    return RiverTransformer(FrameSpec.of(spec, shape, actions=actions), **sizes).eval()


def linear(i, o):
    return i * o + o


def test_parameters_of_the_published_size():
    c, side, d = 4, 8, 768
    block = 2 * 2 * d + linear(d, 3 * d) + linear(d, d) + linear(d, 4 * d) + linear(4 * d, d)
    expected = (
        linear(3 * c, d)
        + 2 * side * d // 2
        + linear(1, 256)
        + linear(256, d)
        + (4 + 5 + 4) * block
        + 4 * linear(2 * d, d)
        + linear(d, d)
        + 2 * d
        + linear(9 * d, c)
    )
    with torch.device("meta"):
        network = RiverTransformer(FrameSpec.of(NetworkSpec(), (c, side, side)))
    assert sum(p.numel() for p in network.parameters()) == expected == 97_697_796


def test_every_input_changes_the_output():
    network = build(actions=3)
    x, t = torch.randn(2, 4, 4, 4), torch.tensor([0.2, 0.7])
    base = cond(action=torch.zeros(2, 3))
    out = network((x,), (t,), base)["v"]
    assert out.shape == x.shape
    values = dict(base.values)
    others = {
        "reference": values["reference"] + 1,
        "past": values["past"] + 1,
        "distance": values["distance"] + 3,
        "action": values["action"] + 1,
    }
    for name, value in others.items():
        assert not torch.allclose(out, network((x,), (t,), Cond({**values, name: value}))["v"]), name
    assert not torch.allclose(out, network((x,), (t + 0.1,), base)["v"])
    assert not torch.allclose(out, network((x + 1,), (t,), base)["v"])


def test_it_knows_where_a_token_is():
    network = build()
    x, t = torch.randn(1, 4, 4, 4), torch.tensor([0.5])
    c = cond(b=1)
    moved = Cond({**c.values, "reference": c["reference"].roll(1, 3), "past": c["past"].roll(1, 3)})
    out = network((x,), (t,), c)["v"].roll(1, 3)
    assert not torch.allclose(out, network((x.roll(1, 3),), (t,), moved)["v"], atol=1e-4)


def test_rows_do_not_mix():
    network = build()
    x, t, c = torch.randn(2, 4, 4, 4), torch.tensor([0.2, 0.7]), cond()
    alone = network((x[:1],), (t[:1],), c.take(slice(0, 1)))["v"]
    assert torch.allclose(network((x,), (t,), c)["v"][:1], alone, atol=1e-5)


@pytest.mark.parametrize("times", [0, 1, 2])
@pytest.mark.parametrize("inputs", [1, 2])
def test_networks_to_an_objectives_order(times, inputs):
    heads = (Head("v"), Head("log_sigma", shape="scalar", detach=True))
    network = build(NetworkSpec(inputs, times, heads))
    x = [torch.randn(2, 4, 4, 4) for _ in range(inputs)]
    t = [torch.rand(2) for _ in range(times)]
    out = network(x, t, cond())
    assert out["v"].shape == (2, 4, 4, 4)
    assert out["log_sigma"].shape == (2,)
    out["log_sigma"].sum().backward()
    assert network.enter.weight.grad is None  # a detached head sends nothing back
    if times == 2:
        network.which.data.normal_()
        assert not torch.allclose(out["v"], network(x, t[::-1], cond())["v"])


def test_time_code_is_cosines_then_sines_of_200_t():
    network = build()
    (token,) = network._tokens((torch.tensor([0.3]),), cond(b=1), torch.zeros(1, 1, 32))
    frequency = 200 * 1e4 ** (-torch.arange(16, dtype=torch.float64) / 16)
    expected = torch.cat([(0.3 * frequency).cos(), (0.3 * frequency).sin()])
    assert (token[0].double() - expected).abs().max() < 1e-4


@pytest.mark.parametrize("sizes", [{"width": 33}, {"width": 32, "heads": 5}, {"blocks": (1, 1, 2)}, {"dropout": 1.0}])
def test_sizes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(UserError, match="RiverTransformer"):
        build(**sizes)


def test_oblong_latents():
    network = build(shape=(2, 3, 5))
    c = Cond({"reference": torch.randn(1, 2, 3, 5), "past": torch.randn(1, 2, 3, 5), "distance": torch.tensor([4])})
    assert network((torch.randn(1, 2, 3, 5),), (torch.rand(1),), c)["v"].shape == (1, 2, 3, 5)
