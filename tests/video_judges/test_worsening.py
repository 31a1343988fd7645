"""Clips made worse by drawn amounts, and the part of the classifier that sees how rough frames are."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from domains.video.data.sprites import BouncingSprites
from domains.video.evaluation.attribute_task import AttributeClassifier, WithAttributes
from domains.video.evaluation.attributes import AttributeFeatures, AttributeNetwork, Texture
from domains.video.evaluation.features import feature_set
from domains.video.evaluation.worsening import LEVELS, RANGES, blurred, noisy, passed, worsened
from flowkit.errors import UserError


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grey(count: int, *, frames: int = 3, size: int = 24) -> torch.Tensor:
    return torch.zeros(count, frames, 3, size, size)


def test_each_way_takes_its_share_and_its_level_is_what_was_added():
    clips, levels, holds = worsened(grey(4000, size=8), {"noise": 0.3, "reversed": 0.2}, draws())
    for kind, share in (("noise", 0.3), ("reversed", 0.2)):
        assert abs(float((levels[kind] > 0).float().mean()) - share) < 4 * math.sqrt(share * (1 - share) / 4000)
    assert not bool(((levels["noise"] > 0) & (levels["reversed"] > 0)).any()), "in one way at most"
    assert torch.equal(holds, levels["reversed"] == 0)
    # Rounding to bytes adds a variance of 1/12 at most; grey is no byte, so even good clips move by half a step.
    seen = (clips * 127.5).flatten(1).std(1)
    assert float(seen[levels["noise"] == 0].max()) < 0.01
    low, high = RANGES["noise"]
    edges = [low * (high / low) ** (level / LEVELS) for level in range(LEVELS + 1)]
    for level in range(1, LEVELS + 1):
        found = seen[levels["noise"] == level]
        assert len(found) > 100
        # Each value is known to 4 %: 576 numbers.
        assert float(found.quantile(0.05)) > 0.95 * edges[level - 1]
        assert float(found.quantile(0.95)) < 1.05 * edges[level]


def test_good_clips_stay_as_they_are_to_the_byte_and_reversed_ones_run_backwards():
    bytes_ = torch.randint(0, 256, (64, 4, 3, 8, 8), generator=draws(1), dtype=torch.uint8)
    clips = bytes_.float() / 127.5 - 1
    made, levels, _ = worsened(clips, {"noise": 0.3, "blur": 0.3, "reversed": 0.2}, draws())
    back = ((made + 1) * 127.5).round().to(torch.uint8)
    good = torch.stack(list(levels.values())).sum(0) == 0
    assert 0 < int(good.sum()) < 64
    assert torch.equal(back[good], bytes_[good])
    turned = levels["reversed"] == 1
    assert torch.equal(back[turned], bytes_[turned].flip(1))
    again = worsened(clips, {"noise": 0.3, "blur": 0.3, "reversed": 0.2}, draws())
    assert torch.equal(made, again[0]), "the generator alone decides"


def test_levels_are_told_by_the_steps_that_were_passed():
    assert passed(torch.tensor([0, 1, 3, 4]), 4).tolist() == [[0] * 4, [1, 0, 0, 0], [1, 1, 1, 0], [1] * 4]


def test_blur_is_the_gaussian_of_its_deviation_away_from_the_edges():
    clips = torch.randn(2, 1, 1, 32, 32, generator=draws(2))
    made = blurred(clips, torch.tensor([1.3, 0.0]))
    place = torch.arange(-8, 9).float()
    weight = torch.exp(-place.square() / (2 * 1.3**2))
    weight /= weight.sum()
    whole = F.conv2d(clips[:1, 0], weight.outer(weight)[None, None], padding=8)
    torch.testing.assert_close(made[0, 0, 0, 8:-8, 8:-8], whole[0, 0, 8:-8, 8:-8], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made[1], clips[1])
    torch.testing.assert_close(blurred(torch.ones(1, 1, 1, 9, 9), torch.tensor([3.0])), torch.ones(1, 1, 1, 9, 9))


def test_texture_is_0_where_frames_are_flat_and_grows_with_noise_however_strong_an_edge_is():
    torch.manual_seed(0)
    texture = Texture(4)
    flat = torch.full((2, 3, 2, 24, 24), -1.0)
    flat[1] = 0.3
    assert float(texture(flat).detach().abs().max()) < 1e-4
    edge = flat[:1].clone()
    edge[..., 12:] = 1.0
    noise = torch.randn(edge.shape, generator=draws(3))
    steps = torch.tensor([0.0, 2.5, 5.0, 10.0, 20.0, 40.0])
    ladder = [float(texture(noisy(edge, level[None], noise)).detach().mean()) for level in steps]
    assert all(b > a + 0.1 for a, b in itertools.pairwise(ladder)), ladder
    # White noise of deviation s in [-1, 1] leaves a filter w with s^2 |w'|^2, w' what the mean around makes of w.
    white = torch.randn((1, 3, 40, 40, 40), generator=draws(4)) * 0.1
    impulse = torch.zeros(1, 3, 1, 9, 9)
    found = texture(white)[0].detach()
    for row, filters in enumerate(texture.filters.detach()):
        kept = 0.0
        for channel in range(3):
            one = impulse.clone()
            one[0, channel, 0, 4, 4] = 1.0
            left = one[..., 1:-1, 1:-1] - F.avg_pool3d(one, (1, 3, 3), stride=1)
            kept += float(F.conv3d(left, filters[None]).square().sum())
        deviation = 0.1 * math.sqrt(kept)
        r = torch.randn(200_000, generator=draws(5)) * deviation
        wanted = torch.log1p(r.square() / texture.least).mean() / 2
        assert float(found[row]) == pytest.approx(float(wanted), rel=0.01)


def source() -> WithAttributes:
    return WithAttributes(BouncingSprites(frames=4, size=16, sprites=1, clips=512, validation=8, test=96))


def test_a_classifier_of_levels_tells_noisy_clips_from_good_ones_by_its_features():
    torch.manual_seed(0)
    task = AttributeClassifier(
        {"direction": 8}, size=16, widths=[8], features=16, texture=4, worsening={"noise": 0.4, "reversed": 0.1}
    )
    optimiser, samples, generator = torch.optim.Adam(task.parameters(), lr=5e-3), source().split("train"), draws()
    for step in range(80):
        loss = task(samples.batch(range(step * 32 % 480, step * 32 % 480 + 32)), generator=generator)
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
    assert set(loss.terms) == {"direction", "noise", "reversed"}
    judge = AttributeFeatures(task.eval())
    clips = source().split("test").batch(range(96))["frames"]
    assert set(judge.read(clips[:4].float() / 127.5 - 1)) == {"direction"}, "what was done to a clip is no attribute"
    noise = torch.randn(clips[:48].shape, generator=draws(7))
    means = [feature_set(judge, clips[48:]).mean(0)]
    for level in (0.0, 10.0, 40.0):
        made = (clips[:48].float() + level * noise).round().clamp(0, 255).to(torch.uint8)
        means.append(feature_set(judge, made).mean(0))
    away = [float((mean - means[0]).square().sum()) for mean in means[1:]]
    assert away[2] > away[1] > 5 * away[0], away
    # Evaluations see good clips, and terms of good clips are those of the attributes alone.
    assert set(task(samples.batch(range(4))).terms) == {"direction"}


def test_the_attributes_of_reversed_clips_are_not_learnt():
    task = AttributeClassifier({"direction": 8}, size=16, widths=[8], worsening={"reversed": 0.5})
    raw = source().split("train").batch(range(32))
    generator = draws(8)
    _, levels, holds = worsened(raw["frames"].float(), {"reversed": 0.5}, draws(8))
    terms = task(raw, generator=generator).terms
    assert 0 < int(levels["reversed"].sum()) < 32
    assert bool((terms["direction"][~holds] == 0).all())
    assert bool((terms["direction"][holds] > 0).all())
    assert bool((terms["reversed"] > 0).all())


def test_without_texture_the_weights_are_those_of_older_classifiers():
    plain = AttributeNetwork({"direction": 8}, objects={"direction": 1}, widths=[8], features=4)
    assert not any("texture" in name for name in plain.state_dict())
    assert plain.dense.in_features == 8 * 4


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"texture": -1}, "texture must be at least 0"),
        ({"worsening": {"nose": 0.1}}, "did you mean 'noise'"),
        ({"worsening": {"noise": 0.0}}, "shares are positive"),
        ({"worsening": {"noise": 0.5, "blur": 0.5}}, "sum to less than 1"),
        ({"attributes": {"noise": 2}, "worsening": {"noise": 0.1}}, "take it out of worsening"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: dict, told: str):
    with pytest.raises(UserError, match=told):
        AttributeClassifier(**{"attributes": {"direction": 8}, "size": 16, **arguments})
