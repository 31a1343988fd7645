"""The law of x0."""

from flowkit.sources.gaussian import DiagonalGaussian, Gaussian, ScaledGaussian
from flowkit.sources.given import Given
from flowkit.sources.source import Source

__all__ = ["DiagonalGaussian", "Gaussian", "Given", "ScaledGaussian", "Source"]
