"""Networks of the policy domain, by the names that recipes use."""

from domains.policy.models.encoders import ImageEncoder, ObservationEncoder
from domains.policy.models.mlp import ChunkMLP
from domains.policy.models.unet import ChunkUNet

__all__ = ["ChunkMLP", "ChunkUNet", "ImageEncoder", "ObservationEncoder"]
