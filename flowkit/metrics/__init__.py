"""Measures that need no domain: straightness, cost, evaluations, distances between point sets."""

from flowkit.metrics.point_sets import energy_distance, wasserstein2
from flowkit.metrics.straightness import (
    Straightness,
    curvature,
    degree_of_intersection,
    straightness,
    straightness_by_energy,
    straightness_of_pieces,
)
from flowkit.metrics.transport import count_summary, transport_cost, truncation_error

__all__ = [
    "Straightness",
    "count_summary",
    "curvature",
    "degree_of_intersection",
    "energy_distance",
    "straightness",
    "straightness_by_energy",
    "straightness_of_pieces",
    "transport_cost",
    "truncation_error",
    "wasserstein2",
]
