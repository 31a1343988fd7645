from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.policy.episodes import ArrayRows, Episodes, split_episodes
from domains.policy.observations import ObservationLayout
from domains.policy.windows import WindowSamples
from flowkit.errors import UserError


def episodes_of(lengths: list[int], *, images: bool = False) -> Episodes:
    """Every entry tells its episode and step: 1000 e + i, its negative in the actions, both digits in the image."""
    ends = np.cumsum(lengths)
    code = np.concatenate([1000 * e + np.arange(length) for e, length in enumerate(lengths)]).astype(np.float32)
    observations = {"state": np.stack([code, code + 0.5], axis=1)}
    layout = ObservationLayout((("", 2),), (("image", 2, 2),) if images else ())
    if images:
        pixels = np.stack([code // 1000, code % 1000, 0 * code], axis=1).astype(np.uint8)
        observations["image/image"] = np.broadcast_to(pixels[:, None, None], (len(code), 2, 2, 3)).copy()
    infinite = np.full(1, np.inf)
    return Episodes(observations, -code[:, None], ends, layout, -infinite, infinite)


sizes = st.tuples(
    st.lists(st.integers(1, 12), min_size=1, max_size=6),
    st.integers(1, 5),
    st.integers(1, 9),
    st.integers(1, 9),
).map(lambda drawn: (drawn[0], drawn[1], drawn[2], min(drawn[3], drawn[2])))


@settings(max_examples=150, deadline=None)
@given(sizes)
def test_windows_are_those_of_brute_force(drawn):
    lengths, history, horizon, execute = drawn
    samples = WindowSamples(episodes_of(lengths), history=history, horizon=horizon, execute=execute)
    assert len(samples) == sum(lengths)
    got = samples.batch(range(len(samples)))
    row = 0
    for episode, length in enumerate(lengths):
        for step in range(length):
            seen = [1000 * episode + max(step + back, 0) for back in range(1 - history, 1)]
            ahead = [1000 * episode + min(step + k, length - 1) for k in range(horizon)]
            assert got["state"][row, :, 0].tolist() == seen
            assert (-got["actions"][row, :, 0]).tolist() == ahead
            assert got["real"][row].tolist() == [step + k < length for k in range(horizon)]
            assert (got["episode"][row].item(), got["step"][row].item()) == (episode, step)
            row += 1


@settings(max_examples=100, deadline=None)
@given(sizes)
def test_executed_ends_are_the_published_samplers(drawn):
    lengths, history, horizon, execute = drawn
    samples = WindowSamples(episodes_of(lengths), history=history, horizon=horizon, execute=execute, ends="executed")
    got = samples.batch(range(len(samples)))
    for episode, length in enumerate(lengths):
        # There: windows of W entries from -(history-1) to L-W+(execute-1); their current step is start+history-1.
        width = horizon + history - 1
        published = [start + history - 1 for start in range(1 - history, length - width + execute)]
        published = [step for step in published if step < length]
        assert got["step"][got["episode"] == episode].tolist() == (published or [0])
    if all(length >= horizon for length in lengths):
        assert (~got["real"]).sum(dim=1).max() <= execute - 1


def test_images_follow_the_states_and_types_are_kept():
    samples = WindowSamples(episodes_of([3, 4], images=True), history=2, horizon=3, execute=2)
    got = samples.batch([3, 6])
    assert got["image/image"].shape == (2, 2, 2, 2, 3)
    assert got["image/image"].dtype == torch.uint8
    assert got["image/image"][:, :, 0, 0, 0].tolist() == [[1, 1], [1, 1]]
    assert got["image/image"][:, :, 0, 0, 1].tolist() == [[0, 0], [2, 3]]
    assert {name: got[name].dtype for name in ("state", "actions", "real", "episode", "step")} == {
        "state": torch.float32,
        "actions": torch.float32,
        "real": torch.bool,
        "episode": torch.int64,
        "step": torch.int64,
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 8), min_size=2, max_size=12), st.integers(0, 5), st.floats(0.01, 0.5))
def test_no_episode_is_in_two_splits(lengths, seed, share):
    whole = episodes_of(lengths, images=True)
    numbers = whole.split(validation=share, test=0.2, seed=seed)
    assert sorted(np.concatenate(list(numbers.values())).tolist()) == list(range(len(lengths)))
    assert len(numbers["train"]) >= 1
    assert len(numbers["validation"]) >= 1
    for chosen in numbers.values():
        if not len(chosen):
            continue
        part = whole.take(chosen)
        got = WindowSamples(part, history=3, horizon=4, execute=2).batch(range(part.steps))
        assert set(got["state"][..., 0].div(1000).floor().flatten().tolist()) == set(map(float, chosen))
        assert set(got["actions"].neg().div(1000).floor().flatten().tolist()) == set(map(float, chosen))
        assert set(got["image/image"][..., 0].flatten().tolist()) == set(chosen.tolist())
        assert part.numbers.tolist() == chosen.tolist()


def test_split_depends_on_the_seed_alone_and_keeps_training():
    first, again, other = (split_episodes(50, validation=0.1, test=0.1, seed=seed) for seed in (1, 1, 2))
    assert all((first[name] == again[name]).all() for name in first)
    assert not (first["validation"] == other["validation"]).all()
    assert {name: len(numbers) for name, numbers in first.items()} == {"train": 40, "validation": 5, "test": 5}
    assert {name: len(numbers) for name, numbers in split_episodes(1, validation=0.5).items()} == {
        "train": 1,
        "validation": 0,
        "test": 0,
    }
    assert len(split_episodes(10, validation=0.0)["validation"]) == 0
    with pytest.raises(UserError, match="below 1"):
        split_episodes(10, validation=0.6, test=0.5)


def test_an_empty_split_has_no_windows_and_says_so():
    samples = WindowSamples(None, history=1, horizon=2, execute=1)
    assert len(samples) == 0
    with pytest.raises(UserError, match="empty"):
        _ = samples.episodes


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"history": 0}, "history is 0"),
        ({"horizon": 0}, "horizon is 0"),
        ({"execute": 5}, "from 1 to horizon"),
        ({"execute": 0}, "from 1 to horizon"),
        ({"ends": "some"}, "all or executed"),
    ],
)
def test_wrong_sizes_are_refused(sizes, message):
    with pytest.raises(UserError, match=message):
        WindowSamples(episodes_of([3]), **{"history": 1, "horizon": 4, "execute": 2, **sizes})


def test_rows_of_rows_read_the_first_array():
    array = np.arange(20).reshape(10, 2)
    rows = ArrayRows(ArrayRows(array, np.array([9, 4, 2, 7])), np.array([3, 1]))
    assert rows.shape == (2, 2)
    assert np.asarray(rows).tolist() == array[[7, 4]].tolist()
    assert rows[np.array([[0, 1], [1, 1]])].tolist() == array[[[7, 4], [4, 4]]].tolist()
    assert rows.take(np.array([1])).tolist() == array[[4]].tolist()


def broken(**changes):
    whole = episodes_of([3, 4])
    fields = {
        "observations": whole.observations,
        "actions": whole.actions,
        "ends": whole.ends,
        "layout": whole.layout,
        "action_low": whole.action_low,
        "action_high": whole.action_high,
    }
    return {**fields, **changes}


def with_hole(array: np.ndarray, row: int, value: float) -> np.ndarray:
    array = array.copy()
    array[row, 0] = value
    return array


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": with_hole(episodes_of([3, 4]).actions, 5, np.nan)}, "episode 1 step 2 .* action"),
        ({"actions": with_hole(episodes_of([3, 4]).actions, 5, np.nan), "numbers": [7, 9]}, "episode 9 step 2"),
        (
            {"observations": {"state": with_hole(np.asarray(episodes_of([3, 4]).observations["state"]), 2, np.inf)}},
            "episode 0 step 2 .* state",
        ),
        ({"ends": np.array([3, 3, 7])}, "episode 1 has no step"),
        ({"ends": np.array([4, 2, 7])}, "episode 1 has no step"),
        ({"ends": np.array([3, 8])}, "7 rows, the episodes have 8 steps"),
        ({"ends": np.zeros(0)}, "there is no episode"),
        ({"seeds": [1]}, "2 episodes and 1 seeds"),
        ({"actions": np.zeros(7)}, "actions have shape"),
        ({"action_low": np.zeros(2)}, "bounds"),
        ({"layout": ObservationLayout((("", 3),))}, "the layout has"),
        ({"layout": ObservationLayout((("", 2),), (("image", 2, 2),))}, "the layout has"),
    ],
)
def test_broken_episodes_are_refused(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        Episodes(**broken(source="x.npz", **changes))
    assert "\n" not in str(caught.value)
    assert "x.npz" in str(caught.value)
