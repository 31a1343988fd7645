"""Measures of generated mels and durations: cheap, on log-mels (b, bins, t), over unpadded frames."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

from flowkit.tensors import mean_per_sample


def mel_distance(
    generated: Float[Tensor, "b c t"], real: Float[Tensor, "b c t"], keep: Bool[Tensor, "b 1 t"]
) -> Float[Tensor, " b"]:
    """Mean absolute difference of log-mels (natural logarithm; 0.115 is one decibel of magnitude)."""
    return mean_per_sample((generated - real).abs(), keep)


def deviation_over_time(mel: Float[Tensor, "b c t"], keep: Bool[Tensor, "b 1 t"]) -> Float[Tensor, "b c"]:
    """Standard deviation of each bin over the kept frames: blurred speech has less of it."""
    weight = keep.to(mel.dtype)
    count = weight.sum(2).clamp_min(1.0)
    mean = (mel * weight).sum(2) / count
    return ((mel - mean.unsqueeze(2)).square() * weight).sum(2).div(count).sqrt()


def deviation_ratio(
    generated: Float[Tensor, "b c t"], real: Float[Tensor, "b c t"], keep: Bool[Tensor, "b 1 t"]
) -> Float[Tensor, " b"]:
    """Deviation over time of generated / real, mean over bins; 1 is right, below 1 is blurred."""
    return (deviation_over_time(generated, keep) / deviation_over_time(real, keep).clamp_min(1e-5)).mean(1)


def duration_ratio(predicted: Float[Tensor, "*b"], true: Int[Tensor, "*b"]) -> Float[Tensor, ""]:
    """Predicted frames of all tokens over true ones: how much too long the speech is."""
    return predicted.sum() / true.sum().clamp_min(1)
