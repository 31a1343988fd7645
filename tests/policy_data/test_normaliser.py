from __future__ import annotations

import numpy as np
import pytest
import torch

from domains.policy.data.demonstrations import Demonstrations
from domains.policy.episodes import Episodes
from domains.policy.normaliser import Normaliser
from domains.policy.observations import ObservationLayout
from flowkit.errors import UserError


class Drawn(Demonstrations):
    """Twenty episodes; those of the validation split lie far away from the others."""

    licence = "CC0-1.0"

    def __init__(self, *, far: float = 0.0, **options):
        super().__init__(**options)
        self.far = far

    def episodes(self):
        rng = np.random.default_rng(3)
        ends = np.cumsum(rng.integers(5, 9, 20))
        state = rng.normal(size=(ends[-1], 4)) * [1, 100, 0.01, 0] + [0, 512, 0, 3]
        actions = rng.uniform(12, 511, size=(ends[-1], 2))
        held = np.isin(np.searchsorted(ends, np.arange(ends[-1]), side="right"), self._held())
        state[held] += self.far
        actions[held] += self.far
        layout = ObservationLayout((("x", 4),))
        bounds = np.zeros(2), np.full(2, 512)
        successes = np.array([1] * 15 + [0] * 5)
        return Episodes(
            {"state": state.astype(np.float32)},
            actions.astype(np.float32),
            ends,
            layout,
            *bounds,
            "FlowKit/Fork-v0",
            successes=successes,
        )

    def _held(self):
        from domains.policy.episodes import split_episodes

        numbers = split_episodes(20, validation=self.validation, test=self.test, seed=self.seed)
        return np.concatenate([numbers["validation"], numbers["test"]])


def test_range_becomes_minus_one_to_one_and_back():
    data = Drawn(history=2)
    statistics = data.statistics()
    normaliser = Normaliser(4, 2)
    normaliser.adapt(statistics)
    train = data.split("train").episodes
    state, actions = torch.from_numpy(train.observations["state"]), torch.from_numpy(train.actions)
    scaled = normaliser.normalise_state(state)
    for column in range(3):
        assert scaled[:, column].min() == pytest.approx(-1, abs=1e-5)
        assert scaled[:, column].max() == pytest.approx(1, abs=1e-5)
    assert scaled[:, 3].abs().max() == 0  # constant: centred
    assert normaliser.state_scale[3] == 1
    spread = state.amax(0) - state.amin(0)
    assert ((normaliser.states(scaled) - state).abs() <= 1e-6 * (spread + state.abs())).all()
    scaled = normaliser.normalise_actions(actions)
    assert scaled.abs().max() == pytest.approx(1, abs=1e-5)
    assert ((normaliser.actions(scaled) - actions).abs() <= 1e-6 * 512).all()


def test_deviation_mode_scales_states_alone():
    data = Drawn()
    normaliser = Normaliser(4, 2, state_mode="deviation")
    normaliser.adapt(data.statistics())
    train = data.split("train").episodes
    scaled = normaliser.normalise_state(torch.from_numpy(train.observations["state"]))
    assert scaled[:, :3].mean(dim=0).abs().max() < 1e-4
    assert (scaled[:, :3].std(dim=0, correction=0) - 1).abs().max() < 1e-4
    assert scaled[:, 3].abs().max() == 0
    assert normaliser.normalise_actions(torch.from_numpy(train.actions)).abs().max() == pytest.approx(1, abs=1e-5)
    with pytest.raises(UserError, match="range or deviation"):
        Normaliser(1, 1, state_mode="rank")  # pyright: ignore[reportArgumentType]


def test_actions_are_clipped_to_the_environments_bounds():
    normaliser = Normaliser(4, 2)
    normaliser.adapt(Drawn().statistics())
    wild = normaliser.actions(torch.tensor([[-50.0, 50.0]]))
    assert wild.tolist() == [[0.0, 512.0]]
    normaliser.adapt({**Drawn().statistics(), "action_high": [None, 20.0]})
    assert normaliser.action_high.tolist() == [float("inf"), 20.0]
    assert Normaliser(1, 2).actions(torch.tensor([[-50.0, 50.0]])).tolist() == [[-50.0, 50.0]]


def test_what_it_knows_travels_with_the_weights():
    data = Drawn(history=2, horizon=12, execute=4)
    normaliser = Normaliser(4, 2)
    assert not normaliser.fitted
    with pytest.raises(UserError, match="train it first"):
        normaliser.recall()
    normaliser.adapt(data.statistics())
    other = Normaliser(4, 2)
    other.load_state_dict(normaliser.state_dict())
    assert other.fitted
    assert other.layout == data.recorded.layout
    facts = other.recall()
    assert (facts["environment"], facts["history"], facts["horizon"], facts["execute"]) == ("FlowKit/Fork-v0", 2, 12, 4)
    assert facts["license"] == "CC0-1.0"
    assert torch.equal(other.action_scale, normaliser.action_scale)


def test_other_sizes_and_long_names_are_refused():
    statistics = dict(Drawn().statistics())
    with pytest.raises(UserError, match=r"task.init_args.state is 3, the data has 4"):
        Normaliser(3, 2).adapt(statistics)
    with pytest.raises(UserError, match=r"task.init_args.actions is 1, the data has 2"):
        Normaliser(4, 1).adapt(statistics)
    with pytest.raises(UserError, match="shorter names"):
        Normaliser(4, 2).adapt({**statistics, "environment": "x" * 9000})


@pytest.mark.parametrize("options", [{}, {"validation": 0.3, "test": 0.2, "seed": 5}])
def test_statistics_are_those_of_the_training_split(options):
    near, far = Drawn(**options).statistics(), Drawn(far=1e5, **options).statistics()
    assert near["state"] == far["state"]
    assert near["action"] == far["action"]
    shifted = Drawn(far=1e5, **options).split("validation").episodes
    assert shifted.actions.min() > 1e4


def test_statistics_count_and_are_plain():
    import yaml

    data = Drawn(limit=12, validation=0.25)
    statistics = data.statistics()
    assert yaml.safe_load(yaml.safe_dump(statistics)) == statistics
    assert statistics["episodes"] == 12
    assert statistics["splits"]["validation"]["episodes"] == 3
    assert sum(split["steps"] for split in statistics["splits"].values()) == statistics["steps"]
    assert {name: len(data.split(name)) for name in ("train", "validation", "test")} == {
        name: split["windows"] for name, split in statistics["splits"].items()
    }
    assert statistics["success"] == 1.0
    assert Drawn().statistics()["success"] == 0.75
    # Every episode loses its last horizon - execute windows.
    executed = Drawn(limit=12, horizon=4, execute=1, windows="executed").split("train")
    assert len(executed) == executed.episodes.steps - 3 * len(executed.episodes)
    with pytest.raises(UserError, match="did you mean 'train'"):
        data.split("training")
    with pytest.raises(UserError, match="limit is -1"):
        Drawn(limit=-1).prepare()
