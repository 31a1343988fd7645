"""Networks of the video domain, by the names that recipes use."""

from domains.video.models.transformer import RiverTransformer

__all__ = ["RiverTransformer"]
