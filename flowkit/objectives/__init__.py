"""What is minimised: one paper, one file."""

from flowkit.objectives.ada_flow import AdaFlow
from flowkit.objectives.calm_flow import CaLMFlow
from flowkit.objectives.consistency_fm import ConsistencyFM
from flowkit.objectives.constant_acceleration import ConstantAcceleration
from flowkit.objectives.distance import Distance, PseudoHuber, SquaredError
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.idode import IDODE
from flowkit.objectives.objective import Loss, Networks, Objective
from flowkit.objectives.regression import Regression

__all__ = [
    "IDODE",
    "AdaFlow",
    "CaLMFlow",
    "ConsistencyFM",
    "ConstantAcceleration",
    "Distance",
    "FlowMatching",
    "Loss",
    "Networks",
    "Objective",
    "PseudoHuber",
    "Regression",
    "SquaredError",
]
