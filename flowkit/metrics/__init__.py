"""Measures that need no domain: straightness, cost, evaluations, distances between point sets and between features."""

from flowkit.metrics.dequantisers import Dequantiser, TruncatedNormal, Uniform, code_bound, mass_bits_per_dim
from flowkit.metrics.frechet import frechet_distance
from flowkit.metrics.point_sets import energy_distance, wasserstein2
from flowkit.metrics.quantised import bits_per_dim, dequantise, dequantised_bound
from flowkit.metrics.straightness import (
    Straightness,
    curvature,
    degree_of_intersection,
    direction_straightness,
    straightness,
    straightness_by_energy,
    straightness_of_pieces,
)
from flowkit.metrics.transport import count_summary, transport_cost, truncation_error

__all__ = [
    "Dequantiser",
    "Straightness",
    "TruncatedNormal",
    "Uniform",
    "bits_per_dim",
    "code_bound",
    "count_summary",
    "curvature",
    "degree_of_intersection",
    "dequantise",
    "dequantised_bound",
    "direction_straightness",
    "energy_distance",
    "frechet_distance",
    "mass_bits_per_dim",
    "straightness",
    "straightness_by_energy",
    "straightness_of_pieces",
    "transport_cost",
    "truncation_error",
    "wasserstein2",
]
