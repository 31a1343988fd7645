"""Predictions: one loss kernel, converted; a network seen as a field."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.fields import (
    DataPrediction,
    DiffusionVelocity,
    NetworkField,
    NoisePrediction,
    Prediction,
    ScorePrediction,
    Velocity,
)
from flowkit.nn.network import Head, Network, NetworkSpec
from flowkit.paths import AffinePath, DiffusionPath, LinearPath, PowerPath, TrigonometricPath, VEPath, VPBetaPath
from flowkit.paths.path import Path, Point

PREDICTIONS = [Velocity(), DataPrediction(), NoisePrediction(), ScorePrediction(), DiffusionVelocity()]
PATHS = [
    LinearPath(),
    LinearPath(0.1),
    TrigonometricPath(),
    VPBetaPath(),
    VEPath(0.05, 10.0),
    PowerPath(2.0),
    DiffusionPath(),
]
every_prediction = pytest.mark.parametrize("prediction", PREDICTIONS, ids=repr)
every_path = pytest.mark.parametrize("path", PATHS, ids=repr)


@every_prediction
@every_path
@settings(max_examples=10, deadline=None)
@given(times=st.lists(st.floats(0.02, 0.98), min_size=1, max_size=4))
def test_target_becomes_the_velocity_and_errors_scale_by_the_factor(
    prediction: Prediction, path: AffinePath, times: list[float]
) -> None:
    generator = torch.Generator().manual_seed(0)
    t = torch.tensor(times, dtype=torch.float64)
    x0, x1, error = (torch.randn(len(times), 5, generator=generator, dtype=torch.float64) for _ in range(3))
    point = path.at(x0, x1, t)
    target = prediction.target(point, path)
    v = prediction.to_velocity(target, point.xt, t, path)
    torch.testing.assert_close(v, point.vt, rtol=1e-9, atol=1e-9)
    wrong = prediction.to_velocity(target + error, point.xt, t, path) - v
    expected = prediction.velocity_factor(t, path) * error.square().sum(1)
    torch.testing.assert_close(wrong.square().sum(1), expected, rtol=1e-7, atol=1e-12)


class Bend(Path):
    """A path that is not affine."""

    def at(self, x0: torch.Tensor, x1: torch.Tensor, t: torch.Tensor, aux: torch.Tensor | None = None) -> Point:
        return Point(x0, x1, t, x0, x1 - x0)


@pytest.mark.parametrize("prediction", PREDICTIONS[1:], ids=repr)
def test_other_predictions_need_an_affine_path(prediction: Prediction) -> None:
    x, t = torch.zeros(2, 3), torch.zeros(2)
    with pytest.raises(UserError, match=r"Bend is none: predict Velocity\(\)"):
        prediction.to_velocity(x, x, t, Bend())
    assert torch.equal(Velocity().to_velocity(x, x, t, Bend()), x)


def test_only_the_score_needs_an_independent_gaussian() -> None:
    assert [p.needs_independent_gaussian for p in PREDICTIONS] == [False, False, False, True, False]


class TwoHeads(Network):
    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec)

    def forward(
        self, inputs: Sequence[torch.Tensor], times: Sequence[torch.Tensor], cond: Cond
    ) -> dict[str, torch.Tensor]:
        x = inputs[0] + sum(value for value in cond.values.values())
        return {"v": 2.0 * x, "log_sigma": x.mean(1)}


def test_network_field_passes_the_other_heads_on() -> None:
    spec = NetworkSpec(heads=(Head("v"), Head("log_sigma", "scalar")))
    field = NetworkField(TwoHeads(spec), LinearPath(), DataPrediction())
    x, t = torch.ones(3, 2), torch.full((3,), 0.5)
    out = field(x, t)
    torch.testing.assert_close(out.v, (2.0 * x - x) / 0.5)
    assert set(out.heads) == {"log_sigma"}
    assert out.calls == 1
    shifted = NetworkField(TwoHeads(spec), LinearPath())(x, t, Cond({"y": torch.ones(3, 2)}))
    torch.testing.assert_close(shifted.v, 4.0 * x)


def test_network_field_refuses_what_it_cannot_call() -> None:
    with pytest.raises(UserError, match=r"no head 'velocity'.*known: log_sigma, v"):
        NetworkField(TwoHeads(NetworkSpec(heads=(Head("v"), Head("log_sigma")))), LinearPath(), head="velocity")
    with pytest.raises(UserError, match="one state and one time"):
        NetworkField(TwoHeads(NetworkSpec(times=2)), LinearPath())
