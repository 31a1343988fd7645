"""The attribute classifier: counting values without an order of objects, learning, saving, and its place as a judge."""

import numpy as np
import pytest
import torch

from domains.video.data.sprites import BouncingSprites
from domains.video.evaluation.attribute_task import AttributeClassifier, WithAttributes
from domains.video.evaluation.attributes import AttributeFeatures, agreement, counts_of, decided, load_attributes
from domains.video.evaluation.features import feature_set
from flowkit.errors import UserError
from flowkit.solvers.sampler import Sampler


def test_counts_forget_the_order_and_the_last_value_takes_what_lies_beyond():
    values = torch.tensor([[2, 0], [0, 2], [1, 9]])
    found = counts_of(values, 3)
    assert found.tolist() == [[1, 0, 1], [1, 0, 1], [0, 1, 1]]
    assert agreement(found[:2], found[1:]).tolist() == [1.0, 0.5]


def test_the_likeliest_counts_of_the_right_sum():
    # Against all multisets of two objects, by their likelihood.
    logits = torch.randn(50, 4, 3, generator=torch.Generator().manual_seed(0))
    chance = logits.log_softmax(-1)
    found = decided(logits, 2)
    assert bool((found.sum(1) == 2).all())
    pairs = torch.tensor([(i, j) for i in range(4) for j in range(i, 4)])
    every = counts_of(pairs, 4)
    scores = chance[:, None].expand(-1, len(every), -1, -1).gather(-1, every[None, ..., None].expand(50, -1, -1, 1))
    best = every[scores[..., 0].sum(-1).argmax(1)]
    assert torch.equal(found, best)


def source(**changes) -> WithAttributes:
    arguments = {"frames": 6, "size": 16, "sprites": 1, "clips": 64, "validation": 8, "test": 32} | changes
    return WithAttributes(BouncingSprites(**arguments))


def test_batches_bring_the_attributes_of_their_clips():
    clips = source(sprites=2).split("test")
    raw = clips.batch([3, 5])
    assert raw["attribute/direction"].shape == (2, 2)
    known = clips.clips.attributes([3, 5])
    np.testing.assert_array_equal(raw["attribute/bounces"].numpy(), known["bounces"])
    assert not any(key.endswith(("speed", "positions")) for key in raw)


def test_it_learns_clips_by_heart_and_its_features_tell_them_apart():
    torch.manual_seed(0)
    task = AttributeClassifier({"direction": 8, "bounces": 2}, size=16, widths=[16, 32], features=32)
    samples = source(frames=4).split("train")
    task.adapt(source(frames=4))
    raw = samples.batch(range(6))
    optimiser = torch.optim.Adam(task.parameters(), lr=5e-3)
    losses = []
    for _ in range(120):
        optimiser.zero_grad()
        loss = task(raw)
        loss.total.backward()
        optimiser.step()
        losses.append(loss.total.detach())
    assert set(loss.terms) == {"direction", "bounces"}
    assert losses[-1] < 0.3 * losses[0]
    found = task.evaluate(samples, sampler=Sampler(), limit=6)
    assert found["accuracy_direction"] > 0.8
    assert found["accuracy"] == pytest.approx((found["accuracy_direction"] + found["accuracy_bounces"]) / 2)
    judge = task.pipeline(Sampler())
    features = feature_set(judge, raw["frames"], batch=3)
    assert tuple(features.shape) == (6, 32)
    torch.testing.assert_close(features, feature_set(judge, raw["frames"].split(5)), rtol=1e-4, atol=1e-5)
    said = judge.read(raw["frames"].float() / 127.5 - 1)
    assert float(agreement(said["direction"], counts_of(raw["attribute/direction"], 8)).mean()) > 0.8


def test_attributes_of_the_clip_beside_those_of_its_objects():
    task = AttributeClassifier({"direction": 8, "hits": 3}, size=16, objects=2, of_clip=["hits"], widths=[8])
    raw = source(sprites=2).split("test").batch([0, 1, 2])
    raw["attribute/hits"] = torch.tensor([[0], [2], [7]])
    assert set(task(raw).terms) == {"direction", "hits"}
    said = AttributeFeatures(task).read(raw["frames"].float() / 127.5 - 1)
    assert said["direction"].sum(1).tolist() == [2, 2, 2]
    assert said["hits"].sum(1).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"attributes": {"directions": 8}}, "did you mean 'direction'"),
        ({"attributes": {"direction": 8}, "objects": 2}, "the data knows 'direction' of 1"),
        ({"attributes": {"direction": 8}, "of_clip": ["third"]}, "of_clip names 'third'"),
        ({"attributes": {"direction": 8}, "size": 32}, "the data has 16"),
        ({"attributes": {}}, "name one or more"),
        ({"attributes": {"direction": 8}, "widths": [12]}, "multiples of 8"),
    ],
)
def test_what_does_not_fit_is_one_line(arguments: dict, told: str):
    with pytest.raises(UserError, match=told):
        AttributeClassifier(**{"size": 16, **arguments}).adapt(source())


def test_a_judge_sees_its_own_frames_only_and_a_missing_one_is_one_line():
    judge = AttributeFeatures(AttributeClassifier({"third": 3}, size=16, widths=[8]))
    with pytest.raises(UserError, match="3 x 16 x 16, not 3 x 32 x 32"):
        judge(torch.zeros(1, 4, 3, 32, 32))
    with pytest.raises(UserError, match="flowkit train video/attributes-sprites"):
        load_attributes("runs/none-such")
