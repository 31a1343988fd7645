"""I3D, the network whose logits FVD compares: inflated Inception for clips of 224 x 224, 400 classes of actions.

Carreira and Zisserman 2017, "Quo Vadis, Action Recognition?" (arXiv 1705.07750); FVD: Unterthiner et al. 2018 (arXiv
1812.01717). Paddings are TensorFlow's "SAME", as the weights were trained with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowkit.errors import UserError

Triple = tuple[int, int, int]

#: Side of the frames that the network was trained on, and the fewest frames that reach its last pooling.
SIDE, LEAST_FRAMES = 224, 9
#: Widths of Inception modules: branch 0; branch 1 before and after its 3 x 3 x 3; branch 2 likewise; branch 3.
_MIXED: Mapping[str, tuple[int, ...]] = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Padding before and after an axis that leaves ceil(size / stride) outputs; an odd one more goes behind."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def pad_same(x: Float[Tensor, "b c t h w"], kernel: Triple, stride: Triple, value: float = 0.0) -> Tensor:
    """``x`` padded on its last three axes by :func:`same_padding`."""
    pads = [same_padding(n, k, s) for n, k, s in zip(x.shape[2:], kernel, stride, strict=True)]
    return F.pad(x, [p for pair in reversed(pads) for p in pair], value=value)


class Unit(nn.Module):
    """Convolution with "SAME" padding, normalisation by fixed statistics (shift, no scale, epsilon 0.001) and ReLU."""

    kernel: Tensor
    shift: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, inputs: int, outputs: int, size: Triple = (1, 1, 1), stride: Triple = (1, 1, 1)) -> None:
        super().__init__()
        self.size, self.stride = size, stride
        self.register_buffer("kernel", torch.zeros(outputs, inputs, *size))
        self.register_buffer("shift", torch.zeros(outputs))
        self.register_buffer("mean", torch.zeros(outputs))
        self.register_buffer("variance", torch.ones(outputs))

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Tensor:
        x = F.conv3d(pad_same(x, self.size, self.stride), self.kernel, stride=self.stride)
        return F.relu(F.batch_norm(x, self.mean, self.variance, None, self.shift, training=False, eps=1e-3))


class Pool(nn.Module):
    """Maximum with "SAME" padding."""

    def __init__(self, size: Triple, stride: Triple) -> None:
        super().__init__()
        self.size, self.stride = size, stride

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Tensor:
        return F.max_pool3d(pad_same(x, self.size, self.stride, -torch.inf), self.size, self.stride)


class Mixed(nn.Module):
    """Inception module: four branches side by side."""

    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        three = (3, 3, 3)
        self.units = nn.ModuleDict({
            "Branch_0/Conv3d_0a_1x1": Unit(inputs, widths[0]),
            "Branch_1/Conv3d_0a_1x1": Unit(inputs, widths[1]),
            "Branch_1/Conv3d_0b_3x3": Unit(widths[1], widths[2], three),
            "Branch_2/Conv3d_0a_1x1": Unit(inputs, widths[3]),
            "Branch_2/Conv3d_0b_3x3": Unit(widths[3], widths[4], three),
            "Branch_3/Conv3d_0b_1x1": Unit(inputs, widths[5]),
        })  # fmt: skip
        self.pool = Pool(three, (1, 1, 1))
        self.outputs = widths[0] + widths[2] + widths[4] + widths[5]

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Tensor:
        unit = self.units
        return torch.cat([
            unit["Branch_0/Conv3d_0a_1x1"](x),
            unit["Branch_1/Conv3d_0b_3x3"](unit["Branch_1/Conv3d_0a_1x1"](x)),
            unit["Branch_2/Conv3d_0b_3x3"](unit["Branch_2/Conv3d_0a_1x1"](x)),
            unit["Branch_3/Conv3d_0b_1x1"](self.pool(x)),
        ], 1)  # fmt: skip


class I3D(nn.Module):
    """Clips (b, 3, t, 224, 224) in [-1, 1], t >= 9, to logits (b, 400), averaged over time. Weights are buffers: it
    never learns."""

    def __init__(self) -> None:
        super().__init__()
        layers: dict[str, nn.Module] = {
            "Conv3d_1a_7x7": Unit(3, 64, (7, 7, 7), (2, 2, 2)),
            "MaxPool3d_2a_3x3": Pool((1, 3, 3), (1, 2, 2)),
            "Conv3d_2b_1x1": Unit(64, 64),
            "Conv3d_2c_3x3": Unit(64, 192, (3, 3, 3)),
            "MaxPool3d_3a_3x3": Pool((1, 3, 3), (1, 2, 2)),
        }
        width = 192
        for name, widths in _MIXED.items():
            if name == "4b":
                layers["MaxPool3d_4a_3x3"] = Pool((3, 3, 3), (2, 2, 2))
            if name == "5b":
                layers["MaxPool3d_5a_2x2"] = Pool((2, 2, 2), (2, 2, 2))
            mixed = Mixed(width, widths)
            layers[f"Mixed_{name}"], width = mixed, mixed.outputs
        self.layers = nn.ModuleDict(layers)
        self.register_buffer("head", torch.zeros(400, width))
        self.register_buffer("bias", torch.zeros(400))

    head: Tensor
    bias: Tensor

    def activations(self, x: Float[Tensor, "b 3 t h w"], until: str = "Mixed_5c") -> Float[Tensor, "b c u y x"]:
        """What the layer ``until`` (a name of the published code) gives."""
        for name, layer in self.layers.items():
            x = layer(x)
            if name == until:
                return x
        raise KeyError(f"no layer {until!r}; there are: {', '.join(self.layers)}")

    def forward(self, x: Float[Tensor, "b 3 t 224 224"]) -> Float[Tensor, "b 400"]:
        pooled = F.avg_pool3d(self.activations(x), (2, 7, 7), stride=1)
        return F.linear(pooled.flatten(2).mean(2), self.head, self.bias)


def state_of(tree: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state of :class:`I3D` from the parameters of the original: kernels stored as time, height, width, in, out.

    Args:
        tree: ``params`` and ``batch_stats``, by the names of the published code.

    Raises:
        UserError: something is missing, or of another shape.
    """
    state: dict[str, Tensor] = {}
    try:
        parameters, statistics = tree["params"], tree["batch_stats"]
        wanted = I3D()
        for name, module in wanted.named_modules():
            if isinstance(module, Unit):
                # layers.Mixed_3b.units.Branch_0/Conv3d_0a_1x1 -> Mixed_3b, Branch_0/Conv3d_0a_1x1
                path = [part for part in name.split(".") if part not in ("layers", "units")]
                values, stats = parameters, statistics
                for part in path:
                    values, stats = values[part], stats[part]
                kernel = torch.from_numpy(np.asarray(values["Conv_0"]["kernel"], dtype=np.float32))
                state[f"{name}.kernel"] = kernel.permute(4, 3, 0, 1, 2).contiguous()
                for mine, theirs in (
                    ("shift", values["BatchNorm_0"]["bias"]),
                    ("mean", stats["BatchNorm_0"]["mean"]),
                    ("variance", stats["BatchNorm_0"]["var"]),
                ):
                    state[f"{name}.{mine}"] = torch.from_numpy(np.asarray(theirs, dtype=np.float32).reshape(-1).copy())
        last = parameters["Logits/Conv3d_0c_1x1"]["Conv_0"]
        state["head"] = torch.from_numpy(np.asarray(last["kernel"], dtype=np.float32)).flatten(0, 3).T.contiguous()
        state["bias"] = torch.from_numpy(np.asarray(last["bias"], dtype=np.float32).copy())
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"these are no weights of I3D for Kinetics-400: {error!r} is missing or of another kind"
        ) from None
    for name, tensor in wanted.state_dict().items():
        if state[name].shape != tensor.shape:
            raise UserError(
                f"these are no weights of I3D for Kinetics-400: {name} has shape {tuple(state[name].shape)}"
            )
    return state
