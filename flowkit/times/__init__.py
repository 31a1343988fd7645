"""Training times with their densities, and grids of sampling times."""

from flowkit.times.exponential import ExponentialTimes
from flowkit.times.grids import EDMGrid, ShiftedGrid, SigmoidGrid, UniformGrid
from flowkit.times.law import TimeGrid, TimeLaw, Times
from flowkit.times.laws import GridTimes, ImportanceTimes, LogitNormalTimes, StratifiedTimes, UniformTimes, UShapedTimes
from flowkit.times.likelihood import LikelihoodTimes
from flowkit.times.segments import SegmentGrid, Segments

__all__ = [
    "EDMGrid",
    "ExponentialTimes",
    "GridTimes",
    "ImportanceTimes",
    "LikelihoodTimes",
    "LogitNormalTimes",
    "SegmentGrid",
    "Segments",
    "ShiftedGrid",
    "SigmoidGrid",
    "StratifiedTimes",
    "TimeGrid",
    "TimeLaw",
    "Times",
    "UShapedTimes",
    "UniformGrid",
    "UniformTimes",
]
