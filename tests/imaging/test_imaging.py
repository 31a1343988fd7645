"""Sources of pictures, the U-Net, the feature network and the image task."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch

from domains.imaging.data.glyphs import GLYPHS, DrawnGlyphs
from domains.imaging.data.idx import IdxPictures, read_idx
from domains.imaging.features import byte_values
from domains.imaging.models.specs import PictureSpec
from domains.imaging.models.unet import PictureUNet
from domains.imaging.task import ImageTask, pixels
from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.nn.network import Head, NetworkSpec
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.solvers.sampler import Sampler


def idx(path, array):
    head = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes()))


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    for prefix, n in (("train", 30), ("t10k", 12)):
        idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", generator.integers(0, 256, (n, 6, 6), dtype=np.uint8))
        idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", (np.arange(n) % 10).astype(np.uint8))
    return tmp_path


def tiny_task(**options):
    options = {"size": 16, "classes": 10, "feature_steps": 0, **options}
    return ImageTask(lambda spec: PictureUNet(spec, widths=[8, 8], heads=2, code=16), FlowMatching(), **options)


def test_idx_files_are_read_and_split(folder):
    data = IdxPictures(folder=str(folder), validation=10, limit=15, pad=1)
    data.prepare()
    assert [len(data.split(name)) for name in ("train", "validation", "test")] == [15, 10, 12]
    raw = data.split("validation").batch([0])
    original = read_idx(folder / "train-images-idx3-ubyte.gz")[20]
    assert np.array_equal(raw["picture"][0, 0, 1:-1, 1:-1].numpy(), original)
    assert raw["picture"][0, 0, 0].eq(0).all()
    assert int(raw["label"]) == 0
    assert data.statistics()["size"] == [8, 8]


def test_missing_and_damaged_files_are_one_line_with_the_way_out(folder):
    with pytest.raises(UserError, match=r"dataset-fashion-mnist.*DrawnGlyphs"):
        IdxPictures(folder=str(folder / "nowhere")).prepare()
    path = folder / "t10k-images-idx3-ubyte.gz"
    whole = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(whole[:-5]))
    with pytest.raises(UserError, match="cut short"):
        IdxPictures(folder=str(folder), validation=0).split("test")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="cannot be read"):
        IdxPictures(folder=str(folder), validation=0).split("test")
    with pytest.raises(UserError, match="30 training pictures"):
        IdxPictures(folder=str(folder), validation=30).split("train")


def test_glyphs_are_a_function_of_the_seed_and_tell_their_classes_apart():
    data = DrawnGlyphs(size=16, pictures=400, held_out=100)
    one, two = data.split("train"), data.split("train")
    assert torch.equal(one.pictures, two.pictures)
    assert not torch.equal(one.pictures[:100], data.split("validation").pictures)
    assert set(one.labels.tolist()) == set(range(len(GLYPHS)))
    means = torch.stack([one.pictures[one.labels == k].double().mean(0) for k in range(len(GLYPHS))])
    test = data.split("test")
    nearest = (test.pictures[:, None].double() - means).flatten(2).square().sum(2).argmin(1)
    assert (nearest == test.labels).double().mean() > 0.5  # chance: 0.1


def test_bytes_and_values_are_inverse():
    codes = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(pixels(byte_values(codes)), codes)
    low = -1.0 + 2.0 * codes.double() / 256.0
    assert torch.equal(pixels((low + 1e-6).float()), codes)
    assert pixels(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


@pytest.mark.parametrize(("inputs", "times", "classes"), [(1, 1, 0), (2, 2, 3), (0, 1, 0), (0, 0, 3)])
def test_the_network_is_built_to_the_objectives_order(inputs, times, classes):
    heads = (Head("v"), Head("spread", "scalar", detach=True))
    spec = PictureSpec.of(NetworkSpec(inputs, times, heads), (3, 8, 12), classes=classes)
    network = PictureUNet(spec, widths=[8, 16], heads=2, code=16)
    for parameter in network.parameters():  # layers that begin at 0 would hide what they read
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    x = [torch.randn(4, 3, 8, 12, requires_grad=True) for _ in range(inputs)]
    t = [torch.rand(4, requires_grad=True) for _ in range(times)]
    cond = Cond({"label": torch.tensor([0, 1, 2, 3])}) if classes else Cond()
    out = network(x, t, cond)
    assert out["v"].shape == (4, 3, 8, 12)
    assert out["spread"].shape == (4,)
    if classes:
        other = network(x, t, Cond({"label": torch.tensor([1, 1, 2, 3])}))["v"]
        changed = (other - out["v"]).flatten(1).abs().amax(1)
        assert changed[0] > 1e-4
        assert changed[1:].max() < 1e-5
    if inputs or times:
        gradients = torch.autograd.grad(out["v"].square().sum(), [*x, *t])
        assert all(g.abs().sum() > 0 for g in gradients)


def test_a_network_that_cannot_halve_the_pictures_is_refused():
    with pytest.raises(UserError, match="multiples of 4, not 6 x 6"):
        PictureUNet(PictureSpec.of(NetworkSpec(), (1, 6, 6)), widths=[8, 8, 8], heads=2)


def test_training_learns_features_that_all_runs_on_the_data_share(tmp_path):
    data = DrawnGlyphs(size=16, pictures=2000, held_out=200)
    task = tiny_task(feature_steps=60, cache=str(tmp_path))
    task.adapt(data)
    again = tiny_task(feature_steps=60, cache=str(tmp_path))
    before = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "imaging").iterdir()}
    again.adapt(data)
    assert {f.name: f.stat().st_mtime_ns for f in (tmp_path / "imaging").iterdir()} == before
    assert len(before) == 1
    test = data.split("test")
    features, seen = task.describe(test.pictures)
    assert torch.equal(features, again.describe(test.pictures)[0])
    assert (seen == test.labels).double().mean() > 0.5
    assert not any(p.requires_grad for p in task.features.parameters())
    assert task.class_names[0] == "ring"


def test_drawing_does_not_depend_on_batches_and_evaluation_counts():
    task = tiny_task(evaluate_pictures=20)
    sampler = Sampler(steps=3)
    whole = task.draw(7, sampler=sampler, seed=3)
    parts = task.draw(7, sampler=sampler, seed=3, batch=3)
    assert (whole.pictures.int() - parts.pictures.int()).abs().max() <= 1
    assert whole.evaluations.tolist() == [3] * 7
    found = task.evaluate(DrawnGlyphs(size=16, pictures=30, held_out=30).split("test"), sampler=sampler)
    assert found["nfe"] == 3
    assert found["failed"] == 0
    assert "frechet" not in found


def test_the_task_refuses_data_and_requests_that_do_not_fit():
    with pytest.raises(UserError, match="the data has 10"):
        tiny_task(classes=4).adapt(DrawnGlyphs(size=16, pictures=30, held_out=3))
    with pytest.raises(UserError, match=r"task\.init_args\.size is 16"):
        tiny_task().adapt(DrawnGlyphs(size=8, pictures=30, held_out=3))
    task = tiny_task()
    task.adapt(DrawnGlyphs(size=16, pictures=30, held_out=3))
    generator = task.pipeline(Sampler(steps=1))
    assert generator(2, label="zed").shape == (2, 1, 16, 16)
    with pytest.raises(UserError, match="no class 'zet'"):
        generator(2, label="zet")


def test_dequantised_data_stay_in_the_cells_of_their_bytes():
    task = tiny_task(dequantise=True)
    raw = DrawnGlyphs(size=16, pictures=10, held_out=3).split("train").batch(range(10))
    x1 = task.prepare(raw, torch.Generator().manual_seed(0)).x1
    assert torch.equal(pixels(x1), raw["picture"])
    assert not torch.equal(x1, tiny_task().prepare(raw).x1)
