"""A network that knows the answer: the mixture oracle behind the network interface, in any prediction."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.fields.predictions import (
    DataPrediction,
    DiffusionVelocity,
    NoisePrediction,
    Prediction,
    ScorePrediction,
    Velocity,
)
from flowkit.nn.network import Network, NetworkSpec
from flowkit.testing.mixture import GaussianMixture

__all__ = ["ExactNetwork"]


class ExactNetwork(Network):
    """Head "v" is what a perfectly trained network of ``prediction`` would say on ``mixture``.

    Args:
        mixture: the oracle, with its path.
        prediction: default velocity.
    """

    def __init__(self, mixture: GaussianMixture, prediction: Prediction | None = None) -> None:
        super().__init__(NetworkSpec())
        answers = {
            Velocity: mixture.velocity,
            DataPrediction: mixture.data,
            NoisePrediction: mixture.noise,
            ScorePrediction: mixture.score,
            DiffusionVelocity: mixture.diffusion_velocity,
        }
        kind = Velocity if prediction is None else type(prediction)
        if kind not in answers:
            raise UserError(f"ExactNetwork has no closed form for {prediction!r}")
        self._answer = answers[kind]

    def forward(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        """The exact answer at (inputs[0], times[0])."""
        return {"v": self._answer(inputs[0], times[0])}
