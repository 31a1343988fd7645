"""The law of x0."""

from flowkit.sources.from_data import FromData
from flowkit.sources.gaussian import DiagonalGaussian, Gaussian, ScaledGaussian
from flowkit.sources.given import Given
from flowkit.sources.source import Source

__all__ = ["DiagonalGaussian", "FromData", "Gaussian", "Given", "ScaledGaussian", "Source"]
