"""The one-dimensional U-Net over time of Diffusion Policy (Chi et al., arXiv 2303.04137), conditioned by FiLM.

Two residual blocks a level, halving between levels by a strided convolution and doubling by a transposed one; every
block scales and shifts its channels by the observation and the time (Perez et al., arXiv 1709.07871).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from domains.policy.models.layers import Convolution, Sinusoids, perceptron
from domains.policy.models.specs import ChunkSpec
from flowkit.cond import Cond
from flowkit.errors import UserError
from flowkit.nn.network import Network


class _Block(nn.Module):
    """Convolution over time, group norm, Mish."""

    def __init__(self, channels: int, out: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.convolution = Convolution(channels, out, kernel)
        self.norm = nn.GroupNorm(groups, out)

    def forward(self, x: Tensor) -> Tensor:
        return F.mish(self.norm(self.convolution(x)))


class _Residual(nn.Module):
    """Two blocks with scale and shift between them, and a shortcut."""

    def __init__(self, channels: int, out: int, condition: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.first, self.second = _Block(channels, out, kernel, groups), _Block(out, out, kernel, groups)
        self.film = nn.Linear(condition, 2 * out)
        self.shortcut = nn.Conv1d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(condition).unsqueeze(2).chunk(2, dim=1)
        return self.second(torch.addcmul(shift, scale, self.first(x))) + self.shortcut(x)


class _Level(nn.Module):
    """Two residual blocks."""

    def __init__(self, channels: int, out: int, condition: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.first = _Residual(channels, out, condition, kernel, groups)
        self.second = _Residual(out, out, condition, kernel, groups)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.second(self.first(x, condition), condition)


class ChunkUNet(Network):
    """U-Net over the steps of a chunk; scalar heads read the mean over time of its coarsest features.

    Args:
        spec: what the objective and the task ask for; inputs are concatenated on the channels, times have a code each
            and their codes are added.
        widths: channels of each level, finest first.
        kernel: steps that a convolution sees, odd.
        groups: of the group norms; divides every width.
        time_width: of the time's code.
        head_width, head_depth: hidden layers of scalar heads.

    Raises:
        UserError: the horizon is no multiple of 2^(levels - 1), or the sizes do not fit each other.
    """

    def __init__(
        self,
        spec: ChunkSpec,
        *,
        widths: Sequence[int] = (256, 512, 1024),
        kernel: int = 5,
        groups: int = 8,
        time_width: int = 256,
        head_width: int = 512,
        head_depth: int = 3,
    ) -> None:
        super().__init__(spec)
        widths = list(widths)
        if groups < 1 or not widths or any(w < 1 or w % groups for w in widths) or kernel < 1 or kernel % 2 == 0:
            raise UserError(
                f"ChunkUNet: widths {widths} must be positive multiples of groups = {groups}, and kernel = {kernel} "
                "must be odd and positive"
            )
        fold = 2 ** (len(widths) - 1)
        if spec.horizon % fold:
            below, above = spec.horizon // fold * fold, -(-spec.horizon // fold) * fold
            raise UserError(
                f"ChunkUNet: {len(widths)} levels need a horizon that is a multiple of {fold}, not {spec.horizon}: "
                f"take {above}" + (f" or {below}" if below else "")
            )
        condition = spec.condition + (time_width if spec.times else 0)
        self.code = Sinusoids(time_width, highest=100.0, lowest=0.01) if spec.times else None
        self.times = nn.ModuleList(
            nn.Sequential(nn.Linear(time_width, 4 * time_width), nn.Mish(), nn.Linear(4 * time_width, time_width))
            for _ in range(spec.times)
        )
        # Without inputs (plain regression) it begins with learnt marks, by which it tells the steps apart.
        self.grid = None if spec.inputs else nn.Parameter(torch.randn(1, spec.actions, spec.horizon))
        read = max(spec.inputs, 1) * spec.actions

        def level(channels: int, out: int) -> _Level:
            return _Level(channels, out, condition, kernel, groups)

        pairs = list(zip([read, *widths], widths, strict=False))
        self.down = nn.ModuleList(level(*pair) for pair in pairs)
        self.shrink = nn.ModuleList(nn.Conv1d(w, w, 3, stride=2, padding=1) for w in widths[:-1])
        self.middle = level(widths[-1], widths[-1])
        # What comes from below has the width of the skip that it meets, and leaves with that of the next finer level.
        finer = list(zip(widths[1:], widths, strict=False))[::-1]
        self.up = nn.ModuleList(level(2 * coarse, fine) for coarse, fine in finer)
        self.grow = nn.ModuleList(nn.ConvTranspose1d(fine, fine, 4, stride=2, padding=1) for _, fine in finer)
        self.final = _Block(widths[0], widths[0], kernel, groups)
        self.heads = nn.ModuleDict(
            {
                head.name: nn.Conv1d(widths[0], spec.actions, 1)
                if head.shape == "state"
                else perceptron(widths[-1], head_width, head_depth, 1)
                for head in spec.heads
            }
        )

    def time_codes(self) -> Sequence[nn.Module]:
        """See :class:`Network`."""
        return list(self.times)

    def forward(self, inputs: Sequence[Tensor], times: Sequence[Tensor], cond: Cond) -> dict[str, Tensor]:
        """``inputs`` (b, horizon, actions) each; reads ``cond["observation"]`` (b, condition)."""
        condition = cond["observation"]
        if self.code is not None:
            codes = [embed(self.code(t).to(condition.dtype)) for embed, t in zip(self.times, times, strict=True)]
            condition = torch.cat([torch.stack(codes).sum(0) if len(codes) > 1 else codes[0], condition], 1)
        condition = F.mish(condition)
        if self.grid is None:
            x = torch.cat([x.transpose(1, 2) for x in inputs], 1)
        else:
            x = self.grid.expand(condition.shape[0], -1, -1)

        skips: list[Tensor] = []
        for number, level in enumerate(self.down):
            x = level(x, condition)
            skips.append(x)
            if number < len(self.shrink):
                x = self.shrink[number](x)
        x = coarsest = self.middle(x, condition)
        for level, grow in zip(self.up, self.grow, strict=True):
            x = grow(level(torch.cat([x, skips.pop()], 1), condition))
        x = self.final(x)

        out: dict[str, Tensor] = {}
        for head in self.spec.heads:
            if head.shape == "state":
                out[head.name] = self.heads[head.name](x.detach() if head.detach else x).transpose(1, 2)
            else:
                features = coarsest.mean(2)
                out[head.name] = self.heads[head.name](features.detach() if head.detach else features)[:, 0]
        return out
