"""From predicted durations to whole frames."""

from __future__ import annotations

import pytest
import torch

from domains.speech.durations import round_cumulative, round_up, total_frames


def test_published_rule_scales_after_the_ceiling() -> None:
    durations = torch.tensor([[0.2, 1.0, 2.5]])
    assert torch.allclose(round_up(durations, 1.1), torch.tensor([[1.1, 1.1, 3.3]]))
    assert total_frames(round_up(durations, 1.1)).tolist() == [5]
    assert total_frames(torch.tensor([[0.0, 0.2]])).tolist() == [1]


def by_hand(durations: list[float], needed: list[bool]) -> list[int]:
    """The rule token by token."""
    ends, total, end = [], 0.0, 0
    for duration, need in zip(durations, needed, strict=True):
        total += duration
        end = max(int(torch.tensor(total).round()), end + need)
        ends.append(end)
    return [b - a for a, b in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize("mean", [0.3, 0.9, 2.6])
def test_cumulative_rounding_follows_its_rule_and_keeps_the_total(mean: float) -> None:
    generator = torch.Generator().manual_seed(0)
    durations = torch.rand(16, 60, generator=generator) * 2 * mean
    needed = torch.rand(16, 60, generator=generator) < 0.5
    found = round_cumulative(durations, needed)
    assert found.tolist() == [by_hand(d, n) for d, n in zip(durations.tolist(), needed.tolist(), strict=True)]
    assert (found[needed] >= 1).all()
    assert (found >= 0).all()
    if mean == 2.6:
        # Enough frames for everybody: nothing is added, where the published rule adds half a frame per token.
        assert (found.sum(1) - durations.sum(1)).abs().max() <= 1.0
        assert (round_up(durations).sum(1) / durations.sum(1)).min() > 1.1


def test_blanks_may_get_nothing() -> None:
    found = round_cumulative(torch.full((1, 5), 0.4), torch.tensor([[False, True, False, True, False]]))
    assert found.sum() == 2
    assert found[0, 1] == found[0, 3] == 1
