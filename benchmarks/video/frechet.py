"""Frechet distances of made clips to real ones under whatever features are at hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from domains.video.evaluation.features import ClipFeatures, feature_set, load_i3d
from domains.video.evaluation.fvd import fvd
from flowkit.errors import UserError
from flowkit.metrics.frechet import frechet_distance


class Frechet:
    """Features of the real clips, computed once, and of each set of made ones.

    Args:
        real: uint8 (m, T, 3, h, w), m >= 2 ``count``, none of which is gone on with.
        same: uint8, the true clips of the made ones; for the distance "same clips".
        count: N of a distance.
        i3d: file of I3D's weights; "": as FlowKit finds them.
        attributes: folder or name of a trained attribute classifier; "": none.
        device: that computes.
        batch: clips at once.
    """

    def __init__(
        self, real: Tensor, same: Tensor, *, count: int, i3d: str = "", attributes: str = "", device: str = "cuda",
        batch: int = 32,
    ) -> None:  # fmt: skip
        self.count, self.batch = count, batch
        self.networks: dict[str, ClipFeatures] = {}
        try:
            self.networks["fvd"] = load_i3d(i3d or None, device=device)
        except UserError as error:
            print(f"no FVD: {error}", flush=True)
        if attributes:
            from domains.video.evaluation.attributes import load_attributes  # pyright: ignore[reportMissingImports]

            self.networks["attribute_fvd"] = load_attributes(attributes, device=device)
        self.real = {name: self._features(name, real) for name in self.networks}
        self.same = {name: self._features(name, same) for name in self.networks}

    def _features(self, name: str, clips: Tensor) -> Tensor:
        return feature_set(self.networks[name], clips, batch=self.batch)

    def __call__(self, made: Tensor) -> dict[str, Any]:
        """Of clips (n, T, 3, h, w) uint8: by name the distance to other real clips with its spread, and to the true
        clips of the same contexts."""
        found: dict[str, Any] = {}
        for name in self.networks:
            features = self._features(name, made)
            row = fvd(features, self.real[name], count=self.count).as_dict()
            if len(features) == len(self.same[name]):
                row["same_clips"] = frechet_distance(features, self.same[name])
            found[name] = row
        return found


def joined(context: Tensor, frames: Tensor) -> Tensor:
    """uint8 clips of known frames (n, k, c, h, w) uint8 and predicted ones in [-1, 1]; grey ones get three channels."""
    from domains.video.river import pixels

    clips = torch.cat([context.cpu(), pixels(frames).cpu()], 1)
    return clips if clips.shape[2] == 3 else clips.expand(-1, -1, 3, -1, -1)
