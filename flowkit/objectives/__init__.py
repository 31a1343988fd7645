"""What is minimised: one paper, one file."""

from flowkit.objectives.flow_matching import FlowMatching
from flowkit.objectives.objective import Loss, Networks, Objective

__all__ = ["FlowMatching", "Loss", "Networks", "Objective"]
