"""The feature network of Frechet distances: a small classifier of the data's own classes.

Distances in its penultimate features compare sets of pictures as FID does with a network of photographs (Heusel et al.
2017, arXiv 1706.08500); they compare only where the network is the same. So it is trained once for a data set, by a
fixed rule, and kept in the cache under the hash of the data and of the rule: runs on one machine share it, and every
model folder carries its copy.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from domains.imaging.data.pictures import PictureSamples
from flowkit import atomic
from flowkit.caching import cache_root
from flowkit.errors import UserError, writing
from flowkit.random import mix_seed

#: Changed with the network or the rule that trains it.
VERSION = 1
WIDTH = 128
#: Classes there is room for: labels are bytes.
CLASSES = 256
_BATCH, _LR = 128, 2e-3


class FeatureNetwork(nn.Module):
    """Three convolutions and two layers; 128 features before the last.

    Args:
        channels: of the pictures.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 3, stride=2, padding=1), nn.GroupNorm(8, 32), nn.SiLU(),
            nn.Conv2d(32, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.SiLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, padding=1), nn.GroupNorm(8, 128), nn.SiLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
            nn.Linear(16 * 128, WIDTH), nn.SiLU(),
        )  # fmt: skip
        self.last = nn.Linear(WIDTH, CLASSES)

    def features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 128"]:
        """Features of pictures in [-1, 1]."""
        return self.body(x)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Scores of the classes."""
        return self.last(self.body(x))


def byte_values(codes: UInt8[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Bytes k as the middles of their 256 cells of [-1, 1]: (2 k + 1) / 256 - 1."""
    return (codes.float() * 2.0 + 1.0) / 256.0 - 1.0


def train_features(
    network: FeatureNetwork, samples: PictureSamples, *, steps: int, device: torch.device, seed: int = 0
) -> None:
    """Train on the labels of ``samples`` by the fixed rule: AdamW, a rate that falls to 0, shifts by up to two pixels.

    Args:
        network: begins from weights drawn by ``seed``, whatever it held.
        samples: the training split.
        steps: of 128 pictures.
        device: where to train.
        seed: of weights, order and shifts.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix_seed(seed, VERSION))
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.GroupNorm):
                module.reset_parameters()
    network.requires_grad_(True).train().to(device)
    generator = torch.Generator().manual_seed(mix_seed(seed, VERSION, 1))
    pictures, labels = samples.pictures.to(device), samples.labels.to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=_LR, weight_decay=0.01)
    height, width = pictures.shape[2:]
    for step in range(steps):
        rows = torch.randint(len(pictures), (_BATCH,), generator=generator).to(device)
        down, right = torch.randint(0, 5, (2,), generator=generator).tolist()
        x = F.pad(byte_values(pictures[rows]), (2, 2, 2, 2), value=-1.0)[
            ..., down : down + height, right : right + width
        ]
        for group in optimiser.param_groups:
            group["lr"] = _LR * (1.0 - step / steps)
        optimiser.zero_grad()
        F.cross_entropy(network(x), labels[rows]).backward()
        optimiser.step()
    network.requires_grad_(False).eval()


def cached_features(
    network: FeatureNetwork, samples: PictureSamples, *, steps: int, cache: str = "", device: torch.device
) -> Path:
    """Fill ``network`` with the weights for this data: from the cache, or trained now and written there.

    Returns:
        The file of the cache.

    Raises:
        UserError: the data has no classes, or the cache cannot be written.
    """
    kinds = len(samples.labels.unique())
    if not kinds >= 2 or int(samples.labels.max()) >= CLASSES:
        raise UserError(
            f"the feature network learns the classes of the data, 2 to {CLASSES} of them, and there are {kinds}: set "
            "task.init_args.feature_steps 0"
        )
    from safetensors.torch import load_file

    name = f"features-{_digest(samples.pictures, samples.labels, steps)}.safetensors"
    file = cache_root(cache) / "imaging" / name
    if file.is_file():
        network.load_state_dict(load_file(file))
        network.requires_grad_(False).eval()
        return file
    home = next(network.parameters()).device
    train_features(network, samples, steps=steps, device=device)
    network.to(home)
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_tensors(file, {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()})
    return file


def _digest(pictures: UInt8[Tensor, "n c h w"], labels: Int[Tensor, " n"], steps: int) -> str:
    digest = hashlib.sha256(f"{VERSION} {steps} {tuple(pictures.shape)}".encode())
    digest.update(labels.numpy().tobytes())
    digest.update(pictures.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
