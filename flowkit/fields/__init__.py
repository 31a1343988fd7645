"""A network seen as a velocity field: predictions, guidance, change of schedule."""

from flowkit.fields.field import Evaluation, Field, FunctionField
from flowkit.fields.guidance import Autoguidance, ClassifierFree, Guidance
from flowkit.fields.network_field import NetworkField
from flowkit.fields.predictions import (
    DataPrediction,
    DiffusionVelocity,
    NoisePrediction,
    Prediction,
    ScorePrediction,
    Velocity,
)
from flowkit.fields.reschedule import Rescheduled

__all__ = [
    "Autoguidance",
    "ClassifierFree",
    "DataPrediction",
    "DiffusionVelocity",
    "Evaluation",
    "Field",
    "FunctionField",
    "Guidance",
    "NetworkField",
    "NoisePrediction",
    "Prediction",
    "Rescheduled",
    "ScorePrediction",
    "Velocity",
]
