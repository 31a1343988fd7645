"""Closed-form flows: the oracle of FlowKit's tests and of plug-in authors."""

from flowkit.testing.joint import JointGaussian
from flowkit.testing.mixture import GaussianMixture, MixtureField
from flowkit.testing.network import ExactNetwork
from flowkit.testing.quantised import QuantisedMixture

__all__ = [
    "ExactNetwork",
    "GaussianMixture",
    "JointGaussian",
    "MixtureField",
    "QuantisedMixture",
]
