"""What is minimised: one paper, one file."""

from flowkit.objectives.ada_flow import AdaFlow
from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.objective import Loss, Networks, Objective
from flowkit.objectives.regression import Regression

__all__ = ["AdaFlow", "FlowMatching", "Loss", "Networks", "Objective", "Regression"]
