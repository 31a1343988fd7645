"""A squared error that stresses fine detail, and whose minimiser is still the conditional mean.

Kim et al. 2024, "Simple ReFlow" (arXiv 2410.07815).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowkit.errors import UserError
from flowkit.objectives.distance import Distance
from flowkit.tensors import mean_per_sample

__all__ = ["HighPass"]


class HighPass(Distance):
    """The mean square after phi = I + strength (I - blur): blur is [1, 2, 1] / 4 along each of ``axes``, mirrored at
    the ends.

    Every frequency of an axis of n elements is multiplied by 1 + strength (1 - mu) with mu in [0, 1], so phi can be
    inverted. Kim et al. 2024 use such
    a metric; filter and strength here are FlowKit's choice.

    Args:
        strength: 0 or more; 0 is the plain square.
        axes: of the state, counted from its end (-1 is the last); a picture (c, h, w) has [-2, -1].
    """

    def __init__(self, strength: float = 10.0, axes: list[int] | None = None) -> None:
        axes = [-2, -1] if axes is None else list(axes)
        if not (math.isfinite(strength) and strength >= 0.0):
            raise UserError(f"HighPass: strength must be 0 or more, got {strength}")
        if not axes or any(axis >= 0 for axis in axes) or len(set(axes)) < len(axes):
            raise UserError(f"HighPass: axes are counted from the end, each once: [-1] or [-2, -1], not {axes}")
        self.strength, self.axes = strength, tuple(axes)

    def apply(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """phi x.

        Raises:
            UserError: the state has not that many axes.
        """
        blurred = self._along(x, _blur)
        return x + self.strength * (x - blurred)

    def invert(self, y: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """phi^-1 y."""
        coefficients = self._along(y, lambda n, like: torch.linalg.inv(_modes(n, like)[1]))
        gain = torch.ones((), dtype=y.dtype, device=y.device)
        for axis in self.axes:
            mu = _modes(y.shape[axis], y)[0]
            gain = gain * mu.reshape(-1, *[1] * (-axis - 1))
        return self._along(coefficients / (1.0 + self.strength * (1.0 - gain)), lambda n, like: _modes(n, like)[1])

    def _along(self, x: Tensor, matrix: Callable[[int, Tensor], Tensor]) -> Tensor:
        if max(-axis for axis in self.axes) >= x.ndim:
            raise UserError(
                f"HighPass: a state of shape {tuple(x.shape[1:])} has not the axes {list(self.axes)}: name those it has"
            )
        for axis in self.axes:
            x = torch.movedim(torch.movedim(x, axis, -1) @ matrix(x.shape[axis], x).T, -1, axis)
        return x

    def __call__(
        self, output: Float[Tensor, "b *d"], target: Float[Tensor, "b *d"], keep: Bool[Tensor, "b ..."] | None
    ) -> Float[Tensor, " b"]:
        gap = output - target
        # Before the filter: it would carry what a mask leaves out into what counts.
        gap = gap if keep is None else gap.where(keep, gap.new_zeros(()))
        return mean_per_sample(self.apply(gap).square(), keep)

    def __repr__(self) -> str:
        return f"HighPass(strength={self.strength:g}, axes={list(self.axes)})"


def _blur(n: int, like: Tensor) -> Float[Tensor, "n n"]:
    """[1, 2, 1] / 4 on n elements, mirrored about the first and the last."""
    blur = torch.zeros(n, n, dtype=like.dtype, device=like.device)
    for i in range(n):
        for j, share in ((abs(i - 1), 0.25), (i, 0.5), (n - 1 - abs(n - 2 - i), 0.25)):
            blur[i, min(j, n - 1)] += share
    return blur


def _modes(n: int, like: Tensor) -> tuple[Float[Tensor, " n"], Float[Tensor, "n n"]]:
    """Eigenvalues and eigenvectors (columns) of the blur: cosines, for its ends are mirrors."""
    k = torch.arange(n, dtype=like.dtype, device=like.device)
    step = math.pi / max(n - 1, 1)
    return (0.5 * step * k).cos().square(), (step * k[:, None] * k).cos()
