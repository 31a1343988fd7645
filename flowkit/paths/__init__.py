"""Where x_t lies between x0 and x1."""

from flowkit.paths.affine import AffinePath, Coefficients
from flowkit.paths.constant_acceleration import ConstantAccelerationPath
from flowkit.paths.diffusion import DiffusionPath
from flowkit.paths.linear import LinearPath
from flowkit.paths.log_snr import SPLogSNRPath, VPLogSNRPath
from flowkit.paths.path import Path, Point
from flowkit.paths.power import PowerPath
from flowkit.paths.trigonometric import TrigonometricPath
from flowkit.paths.ve import VEPath
from flowkit.paths.vp_beta import VPBetaPath

__all__ = [
    "AffinePath",
    "Coefficients",
    "ConstantAccelerationPath",
    "DiffusionPath",
    "LinearPath",
    "Path",
    "Point",
    "PowerPath",
    "SPLogSNRPath",
    "TrigonometricPath",
    "VEPath",
    "VPBetaPath",
    "VPLogSNRPath",
]
