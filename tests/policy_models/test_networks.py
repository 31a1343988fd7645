"""Networks built to order, their sizes, what a detached head may move, and the encoder of observations."""

from __future__ import annotations

import pytest
import torch

from domains.policy.models.encoders import ImageEncoder, ObservationEncoder, SpatialSoftmax
from domains.policy.models.layers import Sinusoids
from domains.policy.models.mlp import ChunkMLP
from domains.policy.models.specs import ChunkSpec, ObservationSpec
from domains.policy.models.unet import ChunkUNet
from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.nn.network import Head, Network, NetworkSpec
from flowkit.random import Rows

HEADS = (Head("v"), Head("aside", "scalar", detach=True), Head("shared", "scalar"))


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(kind: str, spec: NetworkSpec, *, horizon: int = 8, actions: int = 2, condition: int = 5) -> Network:
    torch.manual_seed(0)
    chunk = ChunkSpec.of(spec, horizon=horizon, actions=actions, condition=condition)
    if kind == "mlp":
        return ChunkMLP(chunk, width=32, depth=2, sinusoids=8, head_width=16)
    return ChunkUNet(chunk, widths=[8, 16], groups=4, time_width=8, head_width=16)


def ask(network: Network, b: int = 3) -> tuple[list[torch.Tensor], list[torch.Tensor], Cond]:
    spec = network.spec
    inputs = [randn(b, 8, 2, seed=i).requires_grad_() for i in range(spec.inputs)]
    times = [torch.linspace(0.1, 0.9, b) for _ in range(spec.times)]
    return inputs, times, Cond({"observation": randn(b, 5, seed=9).requires_grad_()})


@pytest.mark.parametrize("kind", ["mlp", "unet"])
@pytest.mark.parametrize("inputs", [0, 1, 2])
@pytest.mark.parametrize("times", [0, 1, 2])
def test_every_order_is_served(kind: str, inputs: int, times: int) -> None:
    network = build(kind, NetworkSpec(inputs, times, HEADS))
    x, t, cond = ask(network)
    out = network(x, t, cond)
    assert {name: tuple(value.shape) for name, value in out.items()} == {"v": (3, 8, 2), "aside": (3,), "shared": (3,)}
    sum(value.square().sum() for value in out.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters() if p.ndim > 1)
    for read in (*x, cond["observation"]):
        assert read.grad is not None
        assert (read.grad.flatten(1).abs().sum(1) > 0).all()
    one = network([v[:1] for v in x], [v[:1] for v in t], cond.take(slice(0, 1)))
    assert one["aside"].shape == (1,)
    assert torch.allclose(one["v"], out["v"][:1], atol=1e-5)


@pytest.mark.parametrize("kind", ["mlp", "unet"])
def test_times_matter_and_are_told_apart(kind: str) -> None:
    network = build(kind, NetworkSpec(1, 2))
    (x,), (t, _), cond = ask(network)
    early, late = torch.zeros_like(t), torch.ones_like(t)
    here, there = (network((x,), times, cond)["v"] for times in ((early, late), (late, early)))
    assert (here - there).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["mlp", "unet"])
def test_a_detached_head_moves_only_itself(kind: str) -> None:
    network = build(kind, NetworkSpec(heads=HEADS))
    x, t, cond = ask(network)
    out = network(x, t, cond)
    out["aside"].sum().backward(retain_graph=True)
    moved = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moved
    assert all(name.startswith("heads.aside.") for name in moved)
    assert cond["observation"].grad is None
    out["shared"].sum().backward()
    assert cond["observation"].grad is not None
    assert any(p.grad is not None for name, p in network.named_parameters() if not name.startswith("heads."))


def test_published_size_of_the_unet() -> None:
    """Diffusion Policy's low-dimensional PushT: 20 numbers in two observations, actions 2, widths 256, 512, 1024."""
    w, kernel, time = (256, 512, 1024), 5, 256
    condition = time + 40

    def residual(a: int, b: int) -> int:
        convolutions = kernel * a * b + b + kernel * b * b + b
        norms, film = 4 * b, condition * 2 * b + 2 * b
        return convolutions + norms + film + (a * b + b if a != b else 0)

    def level(a: int, b: int) -> int:
        return residual(a, b) + residual(b, b)

    total = time * 4 * time + 4 * time + 4 * time * time + time
    total += level(2, w[0]) + level(w[0], w[1]) + level(w[1], w[2]) + level(w[2], w[2])
    total += sum(3 * c * c + c for c in w[:2])
    total += level(2 * w[2], w[1]) + level(2 * w[1], w[0]) + sum(4 * c * c + c for c in w[:2])
    total += kernel * w[0] * w[0] + w[0] + 2 * w[0] + 2 * w[0] + 2
    network = ChunkUNet(ChunkSpec.of(NetworkSpec(), horizon=16, actions=2, condition=40))
    assert count(network) == total == 65_783_298


def test_the_card_size_of_the_mlp() -> None:
    network = ChunkMLP(ChunkSpec.of(NetworkSpec(), horizon=16, actions=1, condition=2))
    assert count(network) == (16 + 2 + 32) * 256 + 256 + 2 * (256 * 256 + 256) + 256 * 16 + 16


@pytest.mark.parametrize(("horizon", "way_out"), [(10, "take 12 or 8"), (3, "take 4")])
def test_a_horizon_that_cannot_be_halved_is_refused(horizon: int, way_out: str) -> None:
    with pytest.raises(UserError, match=way_out):
        ChunkUNet(ChunkSpec.of(NetworkSpec(), horizon=horizon, actions=1, condition=2), widths=[8, 8, 8])


@pytest.mark.parametrize("horizon", [4, 8, 16])
def test_the_unet_gives_back_every_allowed_horizon(horizon: int) -> None:
    network = ChunkUNet(
        ChunkSpec.of(NetworkSpec(), horizon=horizon, actions=3, condition=2), widths=[8, 8, 8], time_width=8
    )
    out = network((randn(2, horizon, 3),), (torch.rand(2),), Cond({"observation": randn(2, 2)}))
    assert out["v"].shape == (2, horizon, 3)


def test_a_chunk_reaches_from_its_first_to_its_last_step() -> None:
    network = build("unet", NetworkSpec())
    x = randn(1, 8, 2).requires_grad_()
    network((x,), (torch.rand(1),), Cond({"observation": randn(1, 5)}))["v"][0, 7].sum().backward()
    assert x.grad is not None
    assert (x.grad[0].abs().sum(1) > 0).all()


def test_sinusoids_resolve_the_unit_interval() -> None:
    code = Sinusoids(32)(torch.linspace(0, 1, 101))
    distance = torch.cdist(code, code)
    assert (distance + torch.eye(101) * 9 > 0.1).all()
    with pytest.raises(UserError, match="even"):
        Sinusoids(7)


# --- observations ----------------------------------------------------------------------------------------------------


def seen(b: int = 4, history: int = 2, side: int = 40) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (b, history, side, side, 3), generator=generator, dtype=torch.uint8)
    return {"state": randn(b, history, 3), "image/robot/eye.0": pictures}


def encoder(**kwargs: object) -> ObservationEncoder:
    torch.manual_seed(0)
    spec = ObservationSpec(3, 2, {"robot/eye.0": (40, 40)})
    return ObservationEncoder(
        spec,
        image=lambda h, w: ImageEncoder(h, w, channels=[8, 16], size=12),  # pyright: ignore[reportArgumentType]
        **kwargs,  # pyright: ignore[reportArgumentType]
    )


def test_states_pass_through_unless_a_width_is_given() -> None:
    plain = ObservationEncoder(ObservationSpec(3, 2))
    state = randn(4, 2, 3)
    assert plain.size == 6
    assert torch.equal(plain({"state": state}), state.flatten(1))
    assert ObservationEncoder(ObservationSpec(3, 2), width=7)({"state": state}).shape == (4, 7)


def test_gradients_reach_every_camera_and_state() -> None:
    module = encoder(width=8)
    parts = seen()
    parts["state"].requires_grad_()
    out = module(parts, Rows(0, total=4))
    assert out.shape == (4, module.size) == (4, 8 + 2 * 12)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    assert parts["state"].grad is not None


def test_crops_are_random_in_training_only_and_keyed_by_row() -> None:
    module, parts = encoder(), seen()
    module.train()
    first, again = module(parts, Rows(3, total=4)), module(parts, Rows(3, total=4))
    assert torch.equal(first, again)
    assert not torch.allclose(first, module(parts, Rows(4, total=4)), atol=1e-6)
    half = module({name: part[2:] for name, part in parts.items()}, Rows(3, first=2, total=4))
    assert torch.allclose(half, first[2:], atol=1e-5)
    module.eval()
    assert torch.equal(module(parts, Rows(3, total=4)), module(parts, Rows(4, total=4)))
    assert torch.equal(module(parts), module(parts, Rows(4, total=4)))


def test_crops_cover_the_whole_picture() -> None:
    camera = ImageEncoder(40, 50, channels=[8], crop=0.8)
    rows = torch.arange(40, dtype=torch.uint8)[:, None].expand(40, 50)
    columns = torch.arange(50, dtype=torch.uint8)[None].expand(40, 50)
    picture = torch.stack([rows, columns, rows], 2).expand(3, 40, 50, 3)
    corner = torch.tensor([[0.0, 0.0], [0.9999, 0.9999], [0.5, 0.5]])
    cut = camera.crop(picture, corner)
    assert cut.shape == (3, 32, 40, 3)
    assert cut[:, 0, 0, :2].tolist() == [[0, 0], [8, 10], [4, 5]]
    assert cut[:, -1, -1, :2].tolist() == [[31, 39], [39, 49], [35, 44]]


def test_spatial_softmax_finds_a_spot() -> None:
    x = torch.zeros(1, 1, 9, 11)
    x[0, 0, 2, 8] = 50.0
    assert torch.allclose(SpatialSoftmax()(x), torch.tensor([[0.6, -0.5]]), atol=1e-4)


def test_wrong_sizes_of_the_image_encoder_are_said_in_one_line() -> None:
    with pytest.raises(UserError, match="crop"):
        ImageEncoder(40, 40, crop=1.5)
    with pytest.raises(UserError, match="fewer channels"):
        ImageEncoder(6, 6)
