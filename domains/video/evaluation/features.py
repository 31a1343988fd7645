"""Numbers for whole clips, which Frechet distances compare: networks that see a clip, in batches and in float32."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from domains.video.evaluation.i3d import I3D, LEAST_FRAMES, SIDE
from flowkit.errors import UserError


class ClipFeatures(nn.Module, ABC):
    """A frozen network that sees clips.

    Attributes:
        name: for tables.
        least: frames that a clip needs.
    """

    name: str = "features"
    least: int = 1

    @abstractmethod
    def forward(self, clips: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b d"]:
        """Features of clips in [-1, 1]."""


class I3DFeatures(ClipFeatures):
    """Logits of I3D, 400 numbers, the frames enlarged (or reduced) to 224 x 224 bilinearly: the features of FVD.

    Unterthiner et al. 2018, "Towards Accurate Generative Models of Video" (arXiv 1812.01717).
    """

    name, least = "i3d", LEAST_FRAMES

    def __init__(self) -> None:
        super().__init__()
        self.network = I3D()

    @torch.no_grad()
    def forward(self, clips: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b 400"]:
        frames = clips.float().flatten(0, 1)
        frames = F.interpolate(frames, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        return self.network(frames.unflatten(0, clips.shape[:2]).transpose(1, 2))


def load_i3d(path: str | None = None, device: str | torch.device = "cpu") -> I3DFeatures:
    """I3D with the weights of the original FVD; ``path`` as in :func:`domains.video.evaluation.weights.read_weights`.

    Raises:
        UserError: the weights are not there, or do not fit.
    """
    from domains.video.evaluation.weights import fill, read_weights

    features = I3DFeatures()
    fill(features.network, read_weights("i3d", path))
    return features.to(device).eval()


@torch.no_grad()
def feature_set(network: ClipFeatures, clips: Tensor | Iterable[Tensor], *, batch: int = 16) -> Float[Tensor, "n d"]:
    """Features of clips, float64 on the CPU, computed ``batch`` at a time in float32 (no TF32, no autocast).

    Args:
        network: in evaluation mode, on the device that computes.
        clips: (n, t, 3, h, w), or parts of it one after another: uint8, or floats in [-1, 1]; on any device.
        batch: clips at once. I3D needs about 0.2 GB for each of 16 frames.

    Raises:
        UserError: the clips have fewer frames than the network needs.
    """
    place = next(iter(network.state_dict().values())).device
    found = []
    with _plain_float32(place):
        for part in _batches(clips, batch):
            if part.shape[1] < network.least:
                raise UserError(f"{network.name} needs clips of at least {network.least} frames, not {part.shape[1]}")
            part = part.to(place)
            part = part.float() / 127.5 - 1.0 if part.dtype == torch.uint8 else part.float()
            found.append(network(part).double().cpu())
    return torch.cat(found)


def _batches(clips: Tensor | Iterable[Tensor], batch: int) -> Iterator[Tensor]:
    for part in [clips] if isinstance(clips, Tensor) else clips:
        yield from part.split(batch)


@contextmanager
def _plain_float32(device: torch.device) -> Iterator[None]:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    was, matmul.allow_tf32 = matmul.allow_tf32, False
    flags = cudnn.flags(
        enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False
    )
    try:
        with flags, torch.autocast(device.type, enabled=False):
            yield
    finally:
        matmul.allow_tf32 = was
